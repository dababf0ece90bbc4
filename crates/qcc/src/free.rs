//! Memory that the machine has to spare.

/// In bytes, without what would have to be swapped out; known on Linux.
pub(crate) fn memory() -> Option<u64> {
    of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// From `/proc/meminfo`.
fn of_meminfo(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|it| it.strip_prefix("MemAvailable:"))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read() {
        let text = "MemTotal:  900 kB\nMemFree:  1 kB\nMemAvailable:   70 kB\n";
        assert_eq!(of_meminfo(text), Some(70 << 10));
        for text in ["", "MemTotal: 9 kB\n", "MemAvailable: x kB\n", "MemAvailable: 7\n"] {
            assert_eq!(of_meminfo(text), None, "{text:?}");
        }
    }
}
