//! The schema of `prices.json`, read strictly.
//!
//! An unknown member is an error with line and column, because a skipped price would make a wrong bill.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use crate::record::time::{Instant, day_number};

/// The conditions of a request, such as `service_tier` `flex`.
pub type Context = BTreeMap<String, String>;

/// The whole file.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub format: u32,
    #[serde(default)]
    pub source: Option<SourceOf>,
    #[serde(default)]
    pub currency: Option<String>,
    /// Facts for other readers of the file, which follow from the prices.
    #[serde(default, rename = "thresholds")]
    _thresholds: serde::de::IgnoredAny,
    #[serde(default, rename = "dailyBounds")]
    _daily_bounds: serde::de::IgnoredAny,
    pub providers: Vec<Provider>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SourceOf {
    pub package: String,
    pub version: String,
    #[serde(default, rename = "license")]
    _license: serde::de::IgnoredAny,
    #[serde(default, rename = "copyright")]
    _copyright: serde::de::IgnoredAny,
    #[serde(default, rename = "wheelSha256")]
    _wheel_sha256: serde::de::IgnoredAny,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub id: String,
    /// A clause on the provider's name.
    #[serde(default)]
    pub known: Option<Clause>,
    /// A clause on names of models.
    #[serde(default, rename = "match")]
    pub matches: Option<Clause>,
    #[serde(default)]
    pub fallback: Vec<String>,
    /// `None` if the table leaves out the prices.
    #[serde(default)]
    pub models: Option<Vec<Model>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub id: String,
    #[serde(rename = "match")]
    pub matches: Clause,
    pub prices: Vec<Prices>,
    #[serde(default)]
    pub variants: Vec<Prices>,
}

/// A condition on a text in lower case.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Clause {
    Is(Texts),
    Starts(String),
    Ends(String),
    Contains(String),
    /// The whole text; `#` is a digit.
    Like(String),
    /// The beginning of the text; `#` is a digit.
    LikeStart(String),
    Or(Vec<Clause>),
    And(Vec<Clause>),
    Not(Box<Clause>),
}

#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Clause {
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Is(Texts::One(is)) => text == is,
            Self::Is(Texts::Many(are)) => are.iter().any(|is| text == is),
            Self::Starts(start) => text.starts_with(&**start),
            Self::Ends(end) => text.ends_with(&**end),
            Self::Contains(part) => text.contains(&**part),
            Self::Like(pattern) => text.len() == pattern.len() && is_like(text, pattern),
            Self::LikeStart(pattern) => is_like(text, pattern),
            Self::Or(clauses) => clauses.iter().any(|clause| clause.matches(text)),
            Self::And(clauses) => clauses.iter().all(|clause| clause.matches(text)),
            Self::Not(clause) => !clause.matches(text),
        }
    }
}

/// Returns whether `text` begins as `pattern` says.
fn is_like(text: &str, pattern: &str) -> bool {
    text.len() >= pattern.len()
        && text
            .bytes()
            .zip(pattern.bytes())
            .all(|(byte, wanted)| if wanted == b'#' { byte.is_ascii_digit() } else { byte == wanted })
}

/// Prices in force at certain times; for a variant, under certain conditions.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Prices {
    #[serde(default)]
    when: BTreeMap<String, String>,
    #[serde(default)]
    from: Option<Day>,
    #[serde(default)]
    daily: Option<[Minute; 2]>,
    pub input: Option<Price>,
    pub cache_read: Option<Price>,
    pub cache_write: Option<Price>,
    #[serde(rename = "cacheWrite5m")]
    pub cache_write_5m: Option<Price>,
    #[serde(rename = "cacheWrite1h")]
    pub cache_write_1h: Option<Price>,
    pub output: Option<Price>,
    pub reasoning: Option<Price>,
    pub web_search: Option<Price>,
    pub request: Option<Price>,
}

impl Prices {
    /// Returns whether the prices are in force at a time.
    pub(super) fn are_in_force(&self, at: Instant) -> bool {
        let minute = at.seconds.rem_euclid(86_400) / 60;
        self.from.as_ref().is_none_or(|Day(day)| at.day() >= *day)
            && self.daily.as_ref().is_none_or(|[Minute(from), Minute(to)]| {
                if to < from { minute >= *from || minute < *to } else { (*from..*to).contains(&minute) }
            })
    }

    /// Returns whether the context of a request meets all conditions.
    pub(super) fn fit(&self, context: &Context) -> bool {
        self.when.iter().all(|(key, value)| context.get(key) == Some(value))
    }

    /// Returns the conditions of a variant.
    pub(super) fn context(&self) -> &Context {
        &self.when
    }

    /// Returns the prices by class, in the order of the classes.
    pub(super) fn by_class(&self) -> [Option<&Price>; CLASSES] {
        [
            &self.input,
            &self.cache_read,
            &self.cache_write,
            &self.cache_write_5m,
            &self.cache_write_1h,
            &self.output,
            &self.reasoning,
            &self.web_search,
            &self.request,
        ]
        .map(Option::as_ref)
    }
}

/// The number of classes.
pub(super) const CLASSES: usize = 9;

/// A price in 10^-18 dollar for a million tokens, or for a thousand searches or requests.
#[derive(Debug)]
pub(super) struct Price {
    pub base: i128,
    /// Prices for requests above a size in tokens, by size.
    pub tiers: Vec<(u64, i128)>,
}

impl Price {
    /// Returns the price for a request of a size in tokens; the base price if the size is unknown.
    pub(super) fn at_size(&self, size_tokens: Option<u64>) -> i128 {
        let size = size_tokens.unwrap_or(0);
        self.tiers.iter().rev().find(|(start, _)| *start < size).map_or(self.base, |(_, price)| *price)
    }
}

/// The largest price in dollars has this many digits before its point.
const WHOLE_DIGITS_MAX: usize = 9;
/// Decimals of a price.
const DECIMALS_MAX: usize = 18;

/// An exact decimal without a sign and an exponent, in 10^-18.
fn decimal(text: &str) -> Option<i128> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole)
        || !is_number(decimals)
        || whole.len() > WHOLE_DIGITS_MAX
        || decimals.len() > DECIMALS_MAX
    {
        return None;
    }
    format!("{whole}{decimals:0<DECIMALS_MAX$}").parse().ok()
}

struct PriceVisitor;

impl<'de> Visitor<'de> for PriceVisitor {
    type Value = Price;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a price: a string such as \"3.75\" of at most {WHOLE_DIGITS_MAX} digits and {DECIMALS_MAX} decimals, or a list of \
             one and of pairs of a size and a price, by size"
        )
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Price, E> {
        let base = decimal(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
        Ok(Price { base, tiers: Vec::new() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Price, A::Error> {
        let read = |text: String| {
            let unexpected = || A::Error::invalid_value(serde::de::Unexpected::Str(&text), &self);
            decimal(&text).ok_or_else(unexpected)
        };
        let base = list.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let mut price = Price { base: read(base)?, tiers: Vec::new() };
        while let Some((start, text)) = list.next_element::<(u64, String)>()? {
            if price.tiers.last().is_some_and(|(last, _)| *last >= start) {
                return Err(A::Error::custom("the sizes of a price are not in order"));
            }
            price.tiers.push((start, read(text)?));
        }
        Ok(price)
    }
}

impl<'de> serde::Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PriceVisitor)
    }
}

/// A date, `2026-10-14`, as days since 1970.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "String")]
struct Day(i64);

impl TryFrom<String> for Day {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let part = |range: std::ops::Range<usize>| text.get(range).and_then(|part| part.parse::<u32>().ok());
        let is_date = text.len() == 10 && [4, 7].iter().all(|at| text.as_bytes()[*at] == b'-');
        let day = || day_number(i64::from(part(0..4)?), part(5..7)?, part(8..10)?);
        is_date.then(day).flatten().map(Self).ok_or_else(|| format!("{text:?} is no date such as 2026-10-14"))
    }
}

/// A time of day, `16:30`, in minutes.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "String")]
struct Minute(i64);

impl TryFrom<String> for Minute {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let (hour, minute) = text.split_once(':').filter(|_| text.len() == 5)?;
            let (hour, minute) = (hour.parse::<i64>().ok()?, minute.parse::<i64>().ok()?);
            ((0..24).contains(&hour) && (0..60).contains(&minute)).then_some(Self(hour * 60 + minute))
        };
        read().ok_or_else(|| format!("{text:?} is no time of day such as 16:30"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact_decimals_and_nothing_else() {
        assert_eq!(decimal("3"), Some(3_000_000_000_000_000_000));
        assert_eq!(decimal("0.04166666666666665"), Some(41_666_666_666_666_650));
        for text in ["", "-1", "1e3", ".5", "5.", "1.0000000000000000001", "12345678901", "1,5", "٣"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn hours_may_go_over_midnight() {
        let prices: Prices = serde_json::from_str(r#"{"daily":["16:30","00:30"],"input":"1"}"#).unwrap();
        let at = |text: &str| prices.are_in_force(Instant::of_turn(text).unwrap());
        assert!(at("2026-01-01T16:30:00Z") && at("2026-01-01T00:29:59.999Z"));
        assert!(!at("2026-01-01T16:29:59.999Z") && !at("2026-01-01T00:30:00Z"));
        assert!(at("2026-01-01T22:15:00+05:45") && !at("2026-01-01T22:14:59+05:45"));
    }
}
