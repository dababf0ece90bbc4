//! Sizes in words.

/// Bytes as people read them: `90.7 MB`. MB is 10^6 bytes.
pub fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// A size as people write it: `700MB`, `1.5 GiB`, or a number of bytes. kB, MB, GB and TB are powers
/// of 1000, KiB, MiB, GiB and TiB of 1024, in upper or lower case.
///
/// # Errors
/// Says what a size looks like.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(no_size(text)),
    };
    if let Ok(count) = number.parse::<u64>() {
        return count.checked_mul(unit).ok_or_else(|| format!("'{text}' is too large"));
    }
    match number.parse::<f64>() {
        Ok(count) if unit > 1 && count * (unit as f64) < u64::MAX as f64 => {
            Ok((count * unit as f64).round() as u64)
        }
        _ => Err(no_size(text)),
    }
}

fn no_size(text: &str) -> String {
    format!("'{text}' is no size such as 700MB, 1.5GiB or 80000000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let cases = [
            ("0", 0),
            ("80000000", 80_000_000),
            ("12B", 12),
            ("700MB", 700_000_000),
            ("700 mb", 700_000_000),
            ("76MiB", 76 << 20),
            ("1.5GiB", 3 << 29),
            ("1.1kB", 1_100),
            ("2TB", 2_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, want) in cases {
            assert_eq!(parse_bytes(text), Ok(want), "{text}");
        }
        for text in ["", "MB", "1.5", "-1", "1M", "1 XB", "1e9", "1..2GB", "nan", "20000000000GiB"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn units_change_at_powers_of_a_thousand() {
        let sizes = [0, 999, 1_000, 90_712_345, 1_500_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "90.7 MB", "1.50 GB"]);
    }
}
