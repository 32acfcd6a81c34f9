//! Timestamps as the store writes them. Touches the clock alone; promises that all of them have one width.

/// Now, in UTC, RFC 3339 with three fractional digits and `Z`: 24 characters.
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
