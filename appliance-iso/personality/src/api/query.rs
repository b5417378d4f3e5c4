//! Values of parameters, read as Docker reads them.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// A time as a filter `until` has it, in nanoseconds since 1970: how long before `now` in Go's form (`24h`, `1h30m`), a date that
/// may have a time of day, or seconds since 1970.
pub(super) fn moment(text: &str, now: OffsetDateTime) -> Result<u64, ApiError> {
    let ns = |time: OffsetDateTime| u64::try_from(time.unix_timestamp_nanos()).unwrap_or_default();
    if let Some(ago) = duration(text) {
        return Ok(ns(now
            .checked_sub(ago.try_into().unwrap_or(time::Duration::MAX))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)));
    }
    // Where no zone is told, the VCH's own is meant.
    let written = ["", "Z", ":00Z", ":00:00Z", "T00:00:00Z"];
    if let Some(time) = written.iter().find_map(|rest| OffsetDateTime::parse(&format!("{text}{rest}"), &Rfc3339).ok()) {
        return Ok(ns(time));
    }
    let seconds = timestamp("until", Some(&text.to_owned())).ok().filter(|_| !text.is_empty());
    let seconds =
        seconds.ok_or_else(|| ApiError::Bad(format!("failed to parse value as time or duration: {text:?}")))?;
    Ok(seconds.unwrap_or_default())
}

/// A duration as Go writes it; none where it is none.
fn duration(text: &str) -> Option<Duration> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut seconds = 0.0;
    let mut rest = Some(text).filter(|text| !text.is_empty())?;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, next) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = next;
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
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
    fn a_moment_is_a_while_ago_or_a_date() {
        let now = OffsetDateTime::from_unix_timestamp(1_136_073_600).unwrap();
        let seconds = |text: &str| moment(text, now).map(|ns| ns / 1_000_000_000);
        for (text, expected) in [
            ("24h", 1_136_073_600 - 86400),
            ("1h30m", 1_136_073_600 - 5400),
            ("1.5m", 1_136_073_600 - 90),
            ("9999999h", 0),
            ("99999999999999999999999999999h", 0),
            ("2006-01-01", 1_136_073_600),
            ("2006-01-01T01", 1_136_077_200),
            ("2006-01-01T00:01", 1_136_073_660),
            ("2006-01-01T00:00:01.5", 1_136_073_601),
            ("2006-01-01T01:00:00+01:00", 1_136_073_600),
            ("1136073600", 1_136_073_600),
            ("1136073600.7", 1_136_073_600),
            ("0", 0),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for wrong in ["", "yesterday", "-5", "5d", "h", "2006-13-01"] {
            let said = moment(wrong, now).map_err(|e| e.to_string());
            assert!(said.is_err_and(|said| said.contains("time or duration")), "{wrong}");
        }
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
