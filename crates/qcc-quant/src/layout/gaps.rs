//! Ascending places as bytes: how far each lies from the one before.
//!
//! A byte of 1 to 255 goes on by so many and names the place that it comes to; 0 goes on by 255 and
//! names none. The way starts before place 0. Of places that lie 1 in 20 a byte each is 8 bits for
//! about 6 that any code needs, and a runtime undoes it by a running sum.

/// The bytes of places, which ascend.
///
/// # Panics
/// If they do not.
#[must_use]
pub fn pack(places: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(places.len());
    let mut next = 0;
    for &place in places {
        assert!(place >= next, "places ascend");
        let mut gap = place - next;
        while gap >= 255 {
            bytes.push(0);
            gap -= 255;
        }
        bytes.push(gap as u8 + 1);
        next = place + 1;
    }
    bytes
}

/// The places, ascending: at most 255 times as far as there are bytes.
pub fn unpack(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes
        .iter()
        .scan(0u64, |next, &byte| {
            *next += if byte == 0 { 255 } else { u64::from(byte) };
            Some((byte != 0).then(|| *next - 1))
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_by_hand() {
        assert_eq!(pack(&[2, 302, 303, 557]), [3, 0, 45, 1, 254]);
        assert_eq!(pack(&[0, 255, 511, 1021]), [1, 255, 0, 1, 0, 255]);
        assert_eq!(pack(&[]), []);
        assert_eq!(unpack(&[3, 0, 45, 1, 254]).collect::<Vec<_>>(), [2, 302, 303, 557]);
        assert_eq!(unpack(&[0, 0]).count(), 0);
    }

    proptest! {
        #[test]
        fn places_come_back(steps in prop::collection::vec(1u64..1000, 0..60)) {
            let places: Vec<u64> = steps
                .iter()
                .scan(0, |end, step| { *end += step; Some(*end - 1) })
                .collect();
            let bytes = pack(&places);
            prop_assert_eq!(unpack(&bytes).collect::<Vec<_>>(), places);
            prop_assert!(bytes.len() <= steps.iter().map(|it| 1 + *it as usize / 255).sum());
        }
    }
}
