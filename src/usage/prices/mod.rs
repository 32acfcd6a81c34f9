//! What a model cost at a time: the price table, and from a turn to its charge.
//!
//! The table `prices.json` is made from the package genai-prices by `scripts/make_prices.py` and is part of the program. It is
//! parsed on first use, which takes about 2 ms. A home may have a `prices.json` of its own, which is asked first.
//!
//! Guarantees: costs are exact ([`Usd`](super::Usd)). Tokens of a class without a price are named, never counted as free.

mod charge;
mod lookup;
mod schema;
mod table;

pub use self::charge::{Charge, Class, Counts, Rates, Size};
pub use self::lookup::Unknown;
pub use self::schema::Context;
pub use self::table::{PriceTable, PricedModel, Prices, PricesError};
