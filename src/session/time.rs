//! Timestamps as the store writes them.
//!
//! Guarantees: all timestamps have one width, because the length of a frame must not depend on the time.

/// Returns the present time in UTC: RFC 3339 with three fractional digits and `Z`, 24 characters.
pub(super) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    #[test]
    fn timestamps_have_a_fixed_width() {
        for _ in 0..50 {
            let now = super::now();
            assert!(now.len() == 24 && now.ends_with('Z') && now.as_bytes()[19] == b'.', "{now}");
        }
    }
}
