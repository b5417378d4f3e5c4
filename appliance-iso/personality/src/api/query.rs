//! Values of parameters, read as Docker reads them.

use time::OffsetDateTime;

use crate::error::ApiError;

/// A truth from a word: Docker takes any but these for true.
pub(super) fn truth(word: Option<&String>) -> bool {
    word.is_some_and(|w| !["", "0", "no", "false", "none"].contains(&w.trim().to_lowercase().as_str()))
}

/// A time as `seconds[.fraction]` since 1970, in nanoseconds; none where there is none, and for 0.
pub(super) fn timestamp(name: &str, text: Option<&String>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
    let invalid =
        || ApiError::Bad(format!("invalid value {text:?} for {name}: it is not seconds[.fraction] since 1970"));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u64>().ok()).flatten();
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let (seconds, nanos) = (number(seconds).ok_or_else(invalid)?, number(&nanos).ok_or_else(invalid)?);
    let ns = seconds.checked_mul(1_000_000_000).and_then(|s| s.checked_add(nanos)).ok_or_else(invalid)?;
    Ok((ns > 0).then_some(ns))
}

/// RFC 3339 with nine digits of nanoseconds, so that columns stand below each other.
pub(super) fn fixed(ns: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(ns.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (time.date(), time.time());
    let (hour, minute, second, nano) = clock.as_hms_nano();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_with_a_fraction() {
        let read = |text: &str| timestamp("since", Some(&text.to_owned()));
        assert_eq!(read("1136073600.000000001"), Ok(Some(1_136_073_600_000_000_001)));
        assert_eq!(read("2.5"), Ok(Some(2_500_000_000)));
        assert_eq!([read(""), read("0"), timestamp("since", None)], [Ok(None), Ok(None), Ok(None)]);
        for wrong in ["yesterday", "-1", "1.x", "+5", "99999999999999999999", "18446744073710"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(fixed(1_136_073_600_000_000_001), "2006-01-01T00:00:00.000000001Z");
    }

    #[test]
    fn words_are_truths_but_for_some() {
        for (word, expected) in [("1", true), ("true", true), ("x", true), ("0", false), ("False", false), ("", false)]
        {
            assert_eq!(truth(Some(&word.to_owned())), expected, "{word}");
        }
        assert!(!truth(None));
    }
}
