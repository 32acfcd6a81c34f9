//! The binary records of a price table, which look-ups read without parsing.
//!
//! `prices.json` becomes the records in `prices.bin` before the program is built; a user's own table becomes records
//! when it is read. A look-up touches a few pages. A record is a row of numbers of 32 bits, little-endian, or a text. A
//! number that refers to a record is the record's offset from the beginning of the table. 0 refers to no record,
//! because the header is there. Equal records are stored once.
//!
//! | record | numbers |
//! | --- | --- |
//! | header | the bytes `burnprc1`; references to three texts (package, version, SHA-256 of the JSON) and to the list of providers |
//! | text | its length in bytes; then the bytes |
//! | list | its length; then a reference to each item |
//! | provider | references: id, clause on a provider's name, clause on a model's name, list of ids to fall back to, list of models (0: left out) |
//! | model | references: id, clause on a model's name, list of prices, list of variants |
//! | prices | list of keys and values of a request's context, in turn; first day (days since 1970); first and last minute of the day; nine prices by class |
//! | price | base (four numbers: 128 bits); number of tiers; for each tier its start (two numbers) and its price (four) |
//! | clause | what kind it is, and what it is about: a text, a clause, or a list of either |
//!
//! Guarantees: a test compares `prices.bin` with the records that [`write`] makes of `prices.json`. To make it after a
//! change of the JSON: `BURN_WRITE_PRICES=1 cargo test --lib the_records_in_the_program`.
//!
//! Rejected: parsing the JSON at first use (10 ms of each start of the status line); the table as Rust constants, because the
//! loader would relocate some 25,000 references at each start of any command.

use std::collections::HashMap;

use super::schema::{CLASSES, Clause, IsTexts, ModelEntry, Price, PriceFile, PricesEntry, ProviderEntry};
use crate::record::time::{DAY_SECONDS, Instant};

const MAGIC: &[u8; 8] = b"burnprc1";
/// Length of a number in bytes.
const NUMBER: usize = 4;
const HEADER_AT: u32 = MAGIC.len() as u32;
/// The numbers of the header.
const HEADER_NUMBERS: usize = 4;
/// The first day of prices that are always in force.
const NO_DAY: i32 = i32::MIN;
/// The minutes of prices that are in force all day.
const NO_MINUTE: u32 = u32::MAX;

// Kinds of clauses.
const IS: u32 = 1;
const IS_ONE_OF: u32 = 2;
const STARTS: u32 = 3;
const ENDS: u32 = 4;
const CONTAINS: u32 = 5;
const LIKE: u32 = 6;
const LIKE_START: u32 = 7;
const OR: u32 = 8;
const AND: u32 = 9;
const NOT: u32 = 10;

/// The records of a table. `sha256` is the SHA-256 of its JSON, in hexadecimal digits.
///
/// # Errors
/// The table has more than 4 GiB of records.
pub(super) fn write(file: &PriceFile, sha256: &str) -> Result<Vec<u8>, String> {
    let mut writer = RecordWriter { bytes: MAGIC.to_vec(), known: HashMap::new() };
    writer.bytes.resize(MAGIC.len() + HEADER_NUMBERS * NUMBER, 0);
    let (package, version) =
        file.source.as_ref().map_or(("", ""), |source| (&*source.package, &*source.version));
    let header = [
        writer.text(package),
        writer.text(version),
        writer.text(sha256),
        writer.list(&file.providers, RecordWriter::provider),
    ];
    writer.bytes[MAGIC.len()..][..HEADER_NUMBERS * NUMBER].copy_from_slice(&bytes_of(&header));
    if u32::try_from(writer.bytes.len()).is_err() {
        return Err("its records have more than 4 GiB".to_owned());
    }
    Ok(writer.bytes)
}

fn bytes_of(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Writes each record after the records that it refers to.
struct RecordWriter {
    bytes: Vec<u8>,
    known: HashMap<Box<[u8]>, u32>,
}

impl RecordWriter {
    fn put(&mut self, record: Vec<u8>) -> u32 {
        if let Some(at) = self.known.get(&*record) {
            return *at;
        }
        // `write` refuses a table in which an offset does not fit.
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&record);
        self.known.insert(record.into(), at);
        at
    }

    fn text(&mut self, text: &str) -> u32 {
        self.put([&bytes_of(&[text.len() as u32]), text.as_bytes()].concat())
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T) -> u32) -> u32 {
        let mut numbers = vec![items.len() as u32];
        numbers.extend(items.iter().map(|item| write(self, item)));
        self.put(bytes_of(&numbers))
    }

    fn provider(&mut self, provider: &ProviderEntry) -> u32 {
        let clause = |writer: &mut Self, clause: &Option<Clause>| {
            clause.as_ref().map_or(0, |clause| writer.clause(clause))
        };
        let numbers = [
            self.text(&provider.id),
            clause(self, &provider.known),
            clause(self, &provider.matches),
            self.list(&provider.fallback, |writer, id| writer.text(id)),
            provider.models.as_ref().map_or(0, |models| self.list(models, Self::model)),
        ];
        self.put(bytes_of(&numbers))
    }

    fn model(&mut self, model: &ModelEntry) -> u32 {
        let numbers = [
            self.text(&model.id),
            self.clause(&model.matches),
            self.list(&model.prices, Self::prices),
            self.list(&model.variants, Self::prices),
        ];
        self.put(bytes_of(&numbers))
    }

    fn prices(&mut self, prices: &PricesEntry) -> u32 {
        let when: Vec<&String> = prices.when.iter().flat_map(|(key, value)| [key, value]).collect();
        let from = prices.from.as_ref().map_or(NO_DAY, |day| day.0);
        let [start, end] = prices.daily.as_ref().map_or([NO_MINUTE; 2], |daily| [daily[0].0, daily[1].0]);
        let mut numbers = vec![self.list(&when, |writer, text| writer.text(text)), from as u32, start, end];
        numbers.extend(prices.by_class().map(|price| price.map_or(0, |price| self.price(price))));
        self.put(bytes_of(&numbers))
    }

    fn price(&mut self, price: &Price) -> u32 {
        let mut record = price.base.to_le_bytes().to_vec();
        record.extend(bytes_of(&[price.tiers.len() as u32]));
        for (start, price) in &price.tiers {
            record.extend(start.to_le_bytes());
            record.extend(price.to_le_bytes());
        }
        self.put(record)
    }

    fn clause(&mut self, clause: &Clause) -> u32 {
        let numbers = match clause {
            Clause::Is(IsTexts::One(text)) => [IS, self.text(text)],
            Clause::Is(IsTexts::Many(texts)) => {
                [IS_ONE_OF, self.list(texts, |writer, text| writer.text(text))]
            }
            Clause::Starts(text) => [STARTS, self.text(text)],
            Clause::Ends(text) => [ENDS, self.text(text)],
            Clause::Contains(text) => [CONTAINS, self.text(text)],
            Clause::Like(text) => [LIKE, self.text(text)],
            Clause::LikeStart(text) => [LIKE_START, self.text(text)],
            Clause::Or(clauses) => [OR, self.list(clauses, Self::clause)],
            Clause::And(clauses) => [AND, self.list(clauses, Self::clause)],
            Clause::Not(clause) => [NOT, self.clause(clause)],
        };
        self.put(bytes_of(&numbers))
    }
}

/// A record of a table.
#[derive(Clone, Copy)]
struct RawRecord<'t> {
    table: &'t [u8],
    at: u32,
}

impl std::fmt::Debug for RawRecord<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record at {}", self.at)
    }
}

impl<'t> RawRecord<'t> {
    /// Bytes of the record, from its number `place` on.
    fn bytes_from(self, place: usize) -> &'t [u8] {
        &self.table[self.at as usize + place * NUMBER..]
    }

    fn number(self, place: usize) -> u32 {
        self.bytes_from(place).first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn wide(self, place: usize) -> i128 {
        self.bytes_from(place).first_chunk().map_or(0, |bytes| i128::from_le_bytes(*bytes))
    }

    /// The record that a number refers to.
    fn referred(self, place: usize) -> Option<Self> {
        let at = self.number(place);
        (at > 0).then_some(Self { at, ..self })
    }

    /// The items of the list that a number refers to.
    fn items(self, place: usize) -> impl DoubleEndedIterator<Item = Self> + Clone {
        let list = Self { at: self.number(place), ..self };
        let count = if list.at > 0 { list.number(0) as usize } else { 0 };
        (1..=count).map(move |item| Self { at: list.number(item), ..self })
    }

    /// The bytes of the text that this record is.
    fn text(self) -> &'t [u8] {
        &self.bytes_from(1)[..self.number(0) as usize]
    }

    /// The text that a number refers to.
    fn text_of(self, place: usize) -> &'t str {
        let text = self.referred(place).map_or(&[][..], Self::text);
        // Every text was written from a `str`.
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// Whether the clause that this record is matches a text in lower case.
    fn matches(self, text: &[u8]) -> bool {
        let Some(about) = self.referred(1) else { return false };
        match self.number(0) {
            IS => text == about.text(),
            IS_ONE_OF => self.items(1).any(|is| text == is.text()),
            STARTS => text.starts_with(about.text()),
            ENDS => text.ends_with(about.text()),
            CONTAINS => memchr::memmem::find(text, about.text()).is_some(),
            LIKE => text.len() == about.text().len() && is_like(text, about.text()),
            LIKE_START => is_like(text, about.text()),
            OR => self.items(1).any(|clause| clause.matches(text)),
            AND => self.items(1).all(|clause| clause.matches(text)),
            NOT => !about.matches(text),
            _ => false,
        }
    }
}

/// Whether `text` begins as `pattern` says.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    let fits =
        |(byte, wanted): (&u8, &u8)| if *wanted == b'#' { byte.is_ascii_digit() } else { byte == wanted };
    text.len() >= pattern.len() && text.iter().zip(pattern).all(fits)
}

/// The header of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableRecord<'t>(RawRecord<'t>);

impl<'t> TableRecord<'t> {
    /// Opens a table from bytes that [`write`] made.
    pub(super) fn of(table: &'t [u8]) -> Self {
        Self(RawRecord { table, at: HEADER_AT })
    }

    pub(super) fn package(self) -> &'t str {
        self.0.text_of(0)
    }

    pub(super) fn version(self) -> &'t str {
        self.0.text_of(1)
    }

    pub(super) fn sha256(self) -> &'t str {
        self.0.text_of(2)
    }

    pub(super) fn providers(self) -> impl Iterator<Item = ProviderRecord<'t>> + Clone {
        self.0.items(3).map(ProviderRecord)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ProviderRecord<'t>(RawRecord<'t>);

impl<'t> ProviderRecord<'t> {
    pub(super) fn id(self) -> &'t str {
        self.0.text_of(0)
    }

    /// Whether a name in lower case names this provider.
    pub(super) fn is_called(self, name: &str) -> bool {
        self.0.referred(1).is_some_and(|clause| clause.matches(name.as_bytes()))
    }

    /// Whether a model without a provider is one of this provider's.
    pub(super) fn claims(self, model: &str) -> bool {
        self.0.referred(2).is_some_and(|clause| clause.matches(model.as_bytes()))
    }

    /// Ids of the providers whose models are searched when no model of this provider matches.
    pub(super) fn fallback(self) -> impl Iterator<Item = &'t [u8]> {
        self.0.items(3).map(RawRecord::text)
    }

    pub(super) fn is_left_out(self) -> bool {
        self.0.referred(4).is_none()
    }

    pub(super) fn models(self) -> impl Iterator<Item = ModelRecord<'t>> {
        self.0.items(4).map(ModelRecord)
    }

    pub(super) fn is(self, other: Self) -> bool {
        self.0.at == other.0.at
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ModelRecord<'t>(RawRecord<'t>);

impl<'t> ModelRecord<'t> {
    pub(super) fn id(self) -> &'t str {
        self.0.text_of(0)
    }

    /// Whether a name in lower case names this model.
    pub(super) fn is_called(self, name: &str) -> bool {
        self.0.referred(1).is_some_and(|clause| clause.matches(name.as_bytes()))
    }

    pub(super) fn prices(self) -> impl DoubleEndedIterator<Item = PricesRecord<'t>> {
        self.0.items(2).map(PricesRecord)
    }

    pub(super) fn variants(self) -> impl DoubleEndedIterator<Item = PricesRecord<'t>> {
        self.0.items(3).map(PricesRecord)
    }
}

/// Prices in force at certain times; for a variant, under certain conditions.
#[derive(Debug, Clone, Copy)]
pub(super) struct PricesRecord<'t>(RawRecord<'t>);

impl<'t> PricesRecord<'t> {
    /// The conditions on a request's context: keys and values.
    pub(super) fn when(self) -> impl Iterator<Item = (&'t str, &'t str)> {
        let mut texts = self.0.items(0).map(|text| std::str::from_utf8(text.text()).unwrap_or_default());
        std::iter::from_fn(move || texts.next().zip(texts.next()))
    }

    pub(super) fn are_in_force(self, at: Instant) -> bool {
        let from = self.0.number(1) as i32;
        if from != NO_DAY && at.day() < i64::from(from) {
            return false;
        }
        let (start, end) = (self.0.number(2), self.0.number(3));
        // A day has 1440 minutes.
        let minute = (at.seconds.rem_euclid(DAY_SECONDS) / 60) as u32;
        match (start, end) {
            (NO_MINUTE, _) => true,
            (start, end) if end < start => minute >= start || minute < end,
            (start, end) => (start..end).contains(&minute),
        }
    }

    /// The prices by class, in the order of [`PricesEntry::by_class`].
    pub(super) fn by_class(self) -> [Option<PriceRecord<'t>>; CLASSES] {
        std::array::from_fn(|class| self.0.referred(4 + class).map(PriceRecord))
    }
}

/// A price, in 10^-18 dollar for a million tokens (of searches and requests: for a thousand).
#[derive(Debug, Clone, Copy)]
pub(super) struct PriceRecord<'t>(RawRecord<'t>);

/// Numbers of a price before its tiers.
const PRICE_NUMBERS: usize = 5;
/// Numbers of a tier.
const TIER_NUMBERS: usize = 6;

impl PriceRecord<'_> {
    /// The price for a request of a size in tokens; the base price if the size is unknown.
    pub(super) fn at_size(self, size_tokens: Option<u64>) -> i128 {
        let size = size_tokens.unwrap_or(0);
        self.tiers().rev().find(|(start, _)| *start < size).map_or(self.0.wide(0), |(_, price)| price)
    }

    /// Prices for requests above a size in tokens, by size.
    pub(super) fn tiers(self) -> impl DoubleEndedIterator<Item = (u64, i128)> {
        (0..self.0.number(PRICE_NUMBERS - 1) as usize).map(move |tier| {
            let place = PRICE_NUMBERS + tier * TIER_NUMBERS;
            let start = u64::from(self.0.number(place)) | u64::from(self.0.number(place + 1)) << 32;
            (start, self.0.wide(place + 2))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A table with one model, whose clause and prices are given as JSON.
    fn table(clause: &str, prices: &str) -> Vec<u8> {
        let json = format!(
            r#"{{"format":1,"providers":[{{"id":"p","models":[{{"id":"m","match":{clause},"prices":[{prices}]}}]}}]}}"#
        );
        write(&serde_json::from_str(&json).unwrap(), "").unwrap()
    }

    fn model(table: &[u8]) -> ModelRecord<'_> {
        TableRecord::of(table).providers().next().unwrap().models().next().unwrap()
    }

    #[test]
    fn clauses_match_what_they_say() {
        for (clause, matching, others) in [
            (r#"{"is":"ab"}"#, &["ab"][..], &["a", "abc", ""][..]),
            (r#"{"is":["ab","c"]}"#, &["ab", "c"], &["a", "abc"]),
            (r#"{"is":[]}"#, &[], &["", "a"]),
            (r#"{"starts":"ab"}"#, &["ab", "abc"], &["a", "xab"]),
            (r#"{"ends":"ab"}"#, &["ab", "cab"], &["b", "abx"]),
            (r#"{"contains":"ab"}"#, &["ab", "xaby"], &["a", "ba"]),
            (r#"{"contains":""}"#, &["", "x"], &[]),
            (r##"{"like":"a-##"}"##, &["a-12"], &["a-1", "a-1x", "a-123", "a-é"]),
            (r##"{"likeStart":"a-#"}"##, &["a-1", "a-1x"], &["a-", "b-1"]),
            (r#"{"or":[{"is":"a"},{"starts":"b"}]}"#, &["a", "bc"], &["ab"]),
            (r#"{"and":[{"starts":"a"},{"ends":"b"}]}"#, &["ab", "a-b"], &["a", "b"]),
            (r#"{"not":{"is":"a"}}"#, &["b", ""], &["a"]),
        ] {
            let table = table(clause, "{}");
            assert!(matching.iter().all(|name| model(&table).is_called(name)), "{clause}");
            assert!(!others.iter().any(|name| model(&table).is_called(name)), "{clause}");
        }
    }

    #[test]
    fn hours_may_go_over_midnight() {
        let table = table(r#"{"is":"m"}"#, r#"{"daily":["16:30","00:30"],"input":"1"}"#);
        let at =
            |text: &str| model(&table).prices().next().unwrap().are_in_force(Instant::of_turn(text).unwrap());
        assert!(at("2026-01-01T16:30:00Z") && at("2026-01-01T00:29:59.999Z"));
        assert!(!at("2026-01-01T16:29:59.999Z") && !at("2026-01-01T00:30:00Z"));
        assert!(at("2026-01-01T22:15:00+05:45") && !at("2026-01-01T22:14:59+05:45"));
    }

    #[test]
    fn prices_and_their_tiers_are_exact() {
        let prices = r#"{"from":"2026-03-01","input":["0.000000000000000001",[200000,"999999999.999999999999999999"]]}"#;
        let table = table(r#"{"is":"m"}"#, prices);
        let prices = model(&table).prices().next().unwrap();
        let [Some(input), None, ..] = prices.by_class() else { panic!("{:?}", prices.by_class()) };
        assert_eq!([None, Some(0), Some(200_000)].map(|size| input.at_size(size)), [1; 3]);
        assert_eq!(input.at_size(Some(200_001)), 999_999_999_999_999_999_999_999_999);
        let at = |text: &str| prices.are_in_force(Instant::of_turn(text).unwrap());
        assert!(!at("2026-02-28T23:59:59.999Z") && at("2026-03-01T00:00:00Z"));
    }
}
