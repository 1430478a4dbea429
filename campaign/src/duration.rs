//! Durations in files: `"250ms"`, `"2s"`, or `"auto"`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::time::Duration;

/// A duration the user gave, or one to derive from golden runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaybeAuto {
    /// Derive it.
    #[default]
    Auto,
    /// As given.
    Given(Duration),
}

impl MaybeAuto {
    /// The given duration in nanoseconds, or what `derived` says.
    pub fn ns_or(self, derived: impl FnOnce() -> u64) -> u64 {
        match self {
            MaybeAuto::Auto => derived(),
            MaybeAuto::Given(d) => nanoseconds(d),
        }
    }
}

/// Nanoseconds, saturating: 584 years are enough.
pub(crate) fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn parse<E: de::Error>(text: &str) -> Result<Duration, E> {
    humantime::parse_duration(text).map_err(|e| {
        E::custom(format!(
            "'{text}' is not a duration such as \"250ms\" or \"2s\": {e}"
        ))
    })
}

impl<'de> Deserialize<'de> for MaybeAuto {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text == "auto" {
            Ok(MaybeAuto::Auto)
        } else {
            parse(&text).map(MaybeAuto::Given)
        }
    }
}

impl Serialize for MaybeAuto {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            MaybeAuto::Auto => s.serialize_str("auto"),
            MaybeAuto::Given(d) => s.collect_str(&humantime::format_duration(*d)),
        }
    }
}

/// `#[serde(with = "text")]` for a plain [`Duration`].
pub(crate) mod text {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(d)?)
    }

    pub(crate) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*d))
    }
}

/// The same for a duration that may be left out.
pub(crate) mod maybe {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        text::deserialize(d).map(Some)
    }

    pub(crate) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => text::serialize(d, s),
            None => s.serialize_none(),
        }
    }
}
