//! Prices: the price table, and the charge of a turn.
//!
//! The table `prices.json` is made from the package genai-prices by `scripts/make_prices.py`. The program contains the
//! table as records (`prices.bin`), which need no parsing. A home may have its own `prices.json`, which is searched first.
//!
//! Guarantees: costs are exact ([`Usd`](super::Usd)). Tokens of a class without a price are reported, and never counted
//! as free.

mod charge;
mod lookup;
mod records;
mod schema;
mod table;

pub use self::charge::{Charge, Class, Rates, Size, TokenCounts};
pub use self::lookup::Unknown;
pub use self::schema::RequestContext;
pub use self::table::{PriceTable, PricedModel, Prices, PricesError};
