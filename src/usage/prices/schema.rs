//! The schema of `prices.json`, read strictly.
//!
//! An unknown member is an error with line and column, because a skipped price would make a wrong bill. Look-ups do not use
//! these types: [`super::records`] makes records of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use crate::record::time::Instant;

/// The conditions of a request, such as `service_tier` `flex`.
pub type RequestContext = BTreeMap<String, String>;

/// The whole file.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PriceFile {
    pub format: u32,
    #[serde(default)]
    pub source: Option<TableSource>,
    #[serde(default)]
    pub currency: Option<String>,
    /// Facts for other readers of the file, which follow from the prices.
    #[serde(default, rename = "thresholds")]
    _thresholds: serde::de::IgnoredAny,
    #[serde(default, rename = "dailyBounds")]
    _daily_bounds: serde::de::IgnoredAny,
    pub providers: Vec<ProviderEntry>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TableSource {
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
pub(super) struct ProviderEntry {
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
    pub models: Option<Vec<ModelEntry>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    pub id: String,
    #[serde(rename = "match")]
    pub matches: Clause,
    pub prices: Vec<PricesEntry>,
    #[serde(default)]
    pub variants: Vec<PricesEntry>,
}

/// A condition on a text in lower case.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Clause {
    Is(IsTexts),
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
pub(super) enum IsTexts {
    One(String),
    Many(Vec<String>),
}

/// Prices in force at certain times; for a variant, under certain conditions.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PricesEntry {
    #[serde(default)]
    pub when: BTreeMap<String, String>,
    #[serde(default)]
    pub from: Option<Day>,
    #[serde(default)]
    pub daily: Option<[Minute; 2]>,
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

impl PricesEntry {
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
pub(super) struct Day(pub i32);

impl TryFrom<String> for Day {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let day = Instant::of_turn(&format!("{text}T00:00Z")).map(Instant::day);
        let day = day.and_then(|day| i32::try_from(day).ok());
        day.map(Self).ok_or_else(|| format!("{text:?} is no date such as 2026-10-14"))
    }
}

/// A time of day, `16:30`, in minutes.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Minute(pub u32);

impl TryFrom<String> for Minute {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let of_1970 =
            Instant::of_turn(&format!("1970-01-01T{text}Z")).filter(|_| text.len() == "16:30".len());
        let minute = of_1970.and_then(|time| u32::try_from(time.seconds / 60).ok());
        minute.map(Self).ok_or_else(|| format!("{text:?} is no time of day such as 16:30"))
    }
}

#[cfg(test)]
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
}
