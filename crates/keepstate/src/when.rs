//! Times and spans as people type them: `90d`, `12h`, `2027-01-31`, `2027-01-31T12:00:00Z`.

use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// A time; a date means its beginning, in UTC.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let date = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|begin| begin.timestamp());
    let seconds = || Timestamp::from_second(text.strip_prefix('@')?.parse().ok()?).ok();
    let time = text.parse().ok().or_else(date).or_else(seconds);
    time.ok_or_else(|| format!("{text:?} is no time: write 2027-01-31, 2027-01-31T12:00:00Z or @SECONDS"))
}

/// A span of time, in units of a fixed length.
pub(crate) fn span(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("{text:?} is no span of time: write 90d, 12h or 30m");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    if span.is_positive() { Ok(span) } else { Err(wrong()) }
}

/// When something ends: so long after it began, or at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    After(SignedDuration),
    At(Timestamp),
}

impl End {
    /// The time, for what begins at `begin`.
    pub(crate) fn from(self, begin: Timestamp) -> Result<Timestamp, jiff::Error> {
        match self {
            Self::After(span) => begin.checked_add(span),
            Self::At(time) => Ok(time),
        }
    }
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a span of time, such as 90d, nor a time, such as 2027-01-31");
        span(text).map(Self::After).or_else(|_| time(text).map(Self::At)).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans_are_told_apart() {
        assert_eq!("90d".parse(), Ok(End::After(SignedDuration::from_hours(90 * 24))));
        assert_eq!("2w 1h".parse(), Ok(End::After(SignedDuration::from_hours(14 * 24 + 1))));
        let time: Timestamp = "2027-01-31T00:00:00Z".parse().unwrap();
        for text in ["2027-01-31", "2027-01-31T00:00:00Z", "2027-01-31T01:00:00+01:00", "@1801353600"] {
            assert_eq!(text.parse(), Ok(End::At(time)), "{text}");
        }
        for text in ["", "soon", "90", "-5d", "0s", "1y", "2027-13-01"] {
            assert!(text.parse::<End>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_end_is_counted_from_the_beginning() {
        let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(End::After(SignedDuration::from_hours(24)).from(begin).unwrap().to_string(), "2026-01-02T00:00:00Z");
        assert!(End::After(SignedDuration::MAX).from(begin).is_err());
    }
}
