//! Price tables, the built-in table and the user's own, and their models.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::lookup::{FoundModel, Unknown, candidates, find};
use super::records::{self, TableRecord};
use super::schema::{PriceFile, RequestContext};

/// Why a price file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PricesError {
    /// The file does not exist.
    #[error("there is no price table at {}; name another file (docs/prices.md describes the format)", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read the prices in {}: {source}; {}", path.display(), remedy(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file is no price table.
    #[error(
        "{} is no price table: {reason}; repair it (docs/prices.md describes the format), or move it away",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
}

fn remedy(reason: &std::io::Error) -> &'static str {
    match reason.kind() {
        ErrorKind::NotADirectory => "a part of its path is a file: move it away, or choose another directory",
        _ => "check its owner and mode, or move it away",
    }
}

/// A larger price file is refused.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// A price table.
pub struct PriceTable {
    /// Its records.
    bytes: Cow<'static, [u8]>,
}

impl std::fmt::Debug for PriceTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PriceTable").field("sha256", &self.sha256()).finish()
    }
}

/// The records that `records` makes of `prices.json`; a test compares them.
static BUILT_IN: PriceTable = PriceTable { bytes: Cow::Borrowed(include_bytes!("prices.bin")) };

impl PriceTable {
    /// Returns the table that is part of the program.
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Reads a user's own table, in the same format.
    ///
    /// # Errors
    /// [`PricesError`].
    pub fn read(path: &Path) -> Result<Self, PricesError> {
        let read = || {
            let metadata = std::fs::metadata(path)?;
            if !metadata.is_file() {
                return Err(std::io::Error::other("it is no regular file"));
            }
            if metadata.len() > FILE_MAX_BYTES {
                return Err(std::io::Error::other("it is larger than 64 MiB"));
            }
            std::fs::read(path)
        };
        let bytes = read().map_err(|source| match source.kind() {
            ErrorKind::NotFound => PricesError::Missing { path: path.to_owned() },
            _ => PricesError::Read { path: path.to_owned(), source },
        })?;
        let invalid = |reason: String| PricesError::Invalid { path: path.to_owned(), reason };
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| invalid(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
        Self::parse(text).map_err(invalid)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: PriceFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.format != 1 {
            return Err(format!("its format is {}, and this program reads format 1", file.format));
        }
        if let Some(currency) = file.currency.as_ref().filter(|currency| *currency != "USD") {
            return Err(format!("its currency is {currency:?}, and this program counts in USD"));
        }
        for provider in &file.providers {
            if let Some(model) = provider.models.iter().flatten().find(|model| model.prices.is_empty()) {
                return Err(format!("the model {:?} of {:?} has no prices", model.id, provider.id));
            }
        }
        let sha256: String =
            Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { bytes: records::write(&file, &sha256)?.into() })
    }

    fn record(&self) -> TableRecord<'_> {
        TableRecord::of(&self.bytes)
    }

    /// Returns the package that the table is made from; empty if the table does not name it.
    pub fn package(&self) -> &str {
        self.record().package()
    }

    /// Returns the version of that package.
    pub fn version(&self) -> &str {
        self.record().version()
    }

    /// SHA-256 of the table's JSON, in hexadecimal digits.
    pub fn sha256(&self) -> &str {
        self.record().sha256()
    }

    /// Returns every model with prices, in the order of the table.
    pub fn all(&self) -> impl Iterator<Item = PricedModel<'_>> {
        self.record().providers().flat_map(move |provider| {
            let found = move |model| FoundModel { provider, owner: provider, model };
            provider.models().map(move |model| PricedModel { table: self, found: found(model) })
        })
    }

    /// Finds a model by its name, at a provider if one is given. Upper and lower case are equal.
    ///
    /// # Errors
    /// Why no model was found.
    pub fn find(&self, provider: Option<&str>, model: &str) -> Result<PricedModel<'_>, Unknown> {
        find(self.record(), provider, model).map(|found| PricedModel { table: self, found })
    }
}

/// A model of a table.
#[derive(Debug, Clone, Copy)]
pub struct PricedModel<'t> {
    table: &'t PriceTable,
    pub(super) found: FoundModel<'t>,
}

impl<'t> PricedModel<'t> {
    /// Returns the provider's id.
    pub fn provider(&self) -> &'t str {
        self.found.provider.id()
    }

    /// Returns the model's id.
    pub fn model(&self) -> &'t str {
        self.found.model.id()
    }

    /// Returns the sizes of requests, in tokens, above which a price of the model changes.
    pub fn sizes(&self) -> Vec<u64> {
        let prices = self.found.model.prices().flat_map(|prices| prices.by_class().into_iter().flatten());
        let mut sizes: Vec<u64> = prices.flat_map(|price| price.tiers().map(|(start, _)| start)).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Returns the contexts in which the model has other prices.
    pub fn contexts(&self) -> Vec<RequestContext> {
        let context = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let variants = self.found.model.variants();
        let mut contexts: Vec<RequestContext> =
            variants.map(|variant| variant.when().map(context).collect()).collect();
        contexts.sort();
        contexts.dedup();
        contexts
    }

    /// Returns whether the price is from the built-in table and not from the user's own.
    pub fn is_built_in(&self) -> bool {
        std::ptr::eq(self.table, PriceTable::built_in())
    }
}

/// The tables in the order of search: the user's own table, if any, then the built-in table.
#[derive(Debug)]
pub struct Prices {
    own: Option<(PathBuf, PriceTable)>,
}

impl Prices {
    /// Only the built-in table.
    pub const fn built_in() -> Self {
        Self { own: None }
    }

    /// Returns the table at `path`, then the built-in table.
    ///
    /// # Errors
    /// [`PricesError`].
    pub fn with_own(path: &Path) -> Result<Self, PricesError> {
        Ok(Self { own: Some((path.to_owned(), PriceTable::read(path)?)) })
    }

    /// Returns the `prices.json` of a home, if it exists, then the built-in table.
    ///
    /// # Errors
    /// [`PricesError`].
    pub fn of_home(home: &crate::home::Home) -> Result<Self, PricesError> {
        let path = home.prices();
        // A link that leads nowhere is no missing file.
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::built_in()),
            _ => Self::with_own(&path),
        }
    }

    /// Returns the user's own table and its path.
    pub fn own(&self) -> Option<(&Path, &PriceTable)> {
        self.own.as_ref().map(|(path, table)| (&**path, table))
    }

    /// Finds the model of a turn from the provider that its enrichment names, if any, and its model's text.
    pub fn of_turn(&self, provider: Option<&str>, model: &str) -> Option<PricedModel<'_>> {
        let candidates = candidates(provider, model);
        let tables = self.own.iter().map(|(_, table)| table).chain([PriceTable::built_in()]);
        tables.into_iter().find_map(|table| {
            candidates.iter().find_map(|(provider, model)| table.find(provider.as_deref(), model).ok())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_records_in_the_program_are_those_of_the_json() {
        let table = PriceTable::parse(include_str!("prices.json")).unwrap();
        if std::env::var_os("BURN_WRITE_PRICES").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/usage/prices/prices.bin");
            std::fs::write(path, &table.bytes).unwrap();
            return;
        }
        assert!(
            table.bytes == PriceTable::built_in().bytes,
            "prices.bin is not that of prices.json; BURN_WRITE_PRICES=1 makes it again"
        );
        assert_eq!(table.package(), "genai-prices");
        assert!(table.all().count() > 1000);
        assert_eq!(table.sha256().len(), 64);
    }

    #[test]
    fn damaged_tables_are_refused_with_the_place() {
        for (text, reason) in [
            ("", "line 1 column 0"),
            ("{}", "missing field `format`"),
            (r#"{"format":2,"providers":[]}"#, "format is 2"),
            (r#"{"format":1,"currency":"EUR","providers":[]}"#, "EUR"),
            (r#"{"format":1,"providers":[],"x":1}"#, "unknown field `x`"),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"is":"m"},"prices":[]}]}]}"#,
                "no prices",
            ),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"is":"m"},"prices":[{"input":"-1"}]}]}]}"#,
                "a price",
            ),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"is":"m"},"prices":[{"input":["1",[5,"2"],[5,"3"]]}]}]}]}"#,
                "not in order",
            ),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"like":"m","is":"m"},"prices":[]}]}]}"#,
                "column",
            ),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"is":"m"},"prices":[{"from":"2026-02-30"}]}]}]}"#,
                "no date",
            ),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"is":"m"},"prices":[{"from":"2026-+2-01"}]}]}]}"#,
                "no date",
            ),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"is":"m"},"prices":[{"daily":["+1:00","10:60"]}]}]}]}"#,
                "no time of day",
            ),
            (
                r#"{"format":1,"providers":[{"id":"a","models":[{"id":"m","match":{"is":"m"},"prices":[{"daily":["1:059","10:00"]}]}]}]}"#,
                "no time of day",
            ),
        ] {
            let refused = PriceTable::parse(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
