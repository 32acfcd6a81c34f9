//! What was used and what it cost: price tables, and totals over the archive's turns.

pub mod instant;
mod money;
pub mod prices;
pub mod turn;

pub use instant::Instant;
pub use money::{TooLarge, Usd};
pub use prices::{PriceTable, Prices, PricesError};
