//! Computes the charge of a request: the prices in force, by class of tokens, times its counts.

use super::records::PriceRecord;
use super::schema::{CLASSES, RequestContext};
use super::table::PricedModel;
use crate::record::time::Instant;
use crate::usage::money::{TooLarge, Usd};

/// Classes of tokens. Each class has its own price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Input that is neither read from a cache nor written to one.
    Input,
    /// Input read from the cache.
    CacheRead,
    /// Input written to the cache for 5 minutes.
    CacheWrite5m,
    /// Input written to the cache for 1 hour.
    CacheWrite1h,
    /// Output that is not reasoning.
    Output,
    /// Output that is reasoning.
    Reasoning,
}

impl Class {
    /// All classes, in the order of [`TokenCounts::by_class`].
    pub const ALL: [Self; 6] =
        [Self::Input, Self::CacheRead, Self::CacheWrite5m, Self::CacheWrite1h, Self::Output, Self::Reasoning];

    /// As documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CacheRead => "cacheRead",
            Self::CacheWrite5m => "cacheWrite5m",
            Self::CacheWrite1h => "cacheWrite1h",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
        }
    }
}

/// The tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Input that is neither read from a cache nor written to one.
    pub input: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Input written to the cache for 5 minutes.
    pub cache_write_5m: u64,
    /// Input written to the cache for 1 hour.
    pub cache_write_1h: u64,
    /// All output.
    pub output: u64,
    /// The part of the output that is reasoning.
    pub reasoning: u64,
}

impl TokenCounts {
    /// Returns all input, which is the context of the request.
    pub fn all_input(&self) -> u64 {
        [self.cache_read, self.cache_write_5m, self.cache_write_1h]
            .iter()
            .fold(self.input, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the counts by [`Class`], which do not overlap.
    pub fn by_class(&self) -> [u64; 6] {
        let reasoning = self.reasoning.min(self.output);
        [
            self.input,
            self.cache_read,
            self.cache_write_5m,
            self.cache_write_1h,
            self.output - reasoning,
            reasoning,
        ]
    }
}

/// The size of a request in input tokens, which selects among prices by context size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// All of its input.
    AllInput,
    /// So many tokens.
    Tokens(u64),
    /// Unknown: the counts are those of several requests.
    Unknown,
}

/// The prices of one request, by class.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// For one token, in units of 10^-24 dollar, by [`Class`].
    by_class: [Option<i128>; 6],
    /// For one search, in the same units.
    web_search: i128,
    /// For the request itself.
    request: i128,
    is_free: bool,
    /// Whether a price may have been higher, because the size of the request is unknown.
    pub is_tier_unknown: bool,
}

/// The charge of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The cost of all tokens with a price.
    pub usd: Usd,
    /// Tokens without a price.
    pub unpriced_tokens: u64,
}

/// Prices of searches and requests are for a thousand, prices of tokens for a million.
const THOUSANDS: i128 = 1_000;

impl PricedModel<'_> {
    /// Returns the prices of a request at a time, in a context and of a size.
    pub fn rates(&self, at: Instant, context: &RequestContext, size: Size, counts: &TokenCounts) -> Rates {
        let prices = self.in_force(at, context);
        let size_tokens = match size {
            Size::AllInput => Some(counts.all_input()),
            Size::Tokens(tokens) => Some(tokens),
            Size::Unknown => None,
        };
        let [
            input,
            cache_read,
            cache_write,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            search,
            request,
        ] = prices.map(|price| price.map(|price| price.at_size(size_tokens)));
        let all_input = counts.all_input();
        let is_beyond = |price: PriceRecord<'_>| price.tiers().any(|(start, _)| start < all_input);
        Rates {
            by_class: [
                input,
                cache_read.or(input),
                cache_write_5m.or(cache_write).or(input),
                cache_write_1h.or(cache_write).or(input),
                output,
                reasoning.or(output),
            ],
            web_search: search.unwrap_or(0) * THOUSANDS,
            request: request.unwrap_or(0) * THOUSANDS,
            is_free: prices.iter().all(Option::is_none),
            is_tier_unknown: size_tokens.is_none() && prices.into_iter().flatten().any(is_beyond),
        }
    }

    /// The prices in a context, if they depend neither on the time nor on the size of a request.
    pub(crate) fn rates_at_all_times(&self, context: &RequestContext) -> Option<Rates> {
        let mut prices = self.found.model.prices();
        let (first, None) = (prices.next()?, prices.next()) else { return None };
        let has_variants = !context.is_empty() && self.found.model.variants().next().is_some();
        let has_tiers = first.by_class().into_iter().flatten().any(|price| price.tiers().next().is_some());
        // If a model has only one entry of prices, the entry always applies, because the first entry applies when none
        // is in force.
        let any =
            || self.rates(Instant::at(0), &RequestContext::new(), Size::Tokens(0), &TokenCounts::default());
        (!has_variants && !has_tiers).then(any)
    }

    /// The prices in force, by class.
    fn in_force(&self, at: Instant, context: &RequestContext) -> [Option<PriceRecord<'_>>; CLASSES] {
        let model = self.found.model;
        let last = model.prices().rfind(|prices| prices.are_in_force(at)).or_else(|| model.prices().next());
        let mut by_class = last.map_or([None; CLASSES], |prices| prices.by_class());
        // Variants belong to a provider's own models. If two variants have a price for a class, the first counts, so it
        // is set last.
        if self.found.owner.is(self.found.provider) && !context.is_empty() {
            for variant in model.variants().rev().filter(|variant| variant.are_in_force(at)) {
                if !variant.when().all(|(key, value)| context.get(key).is_some_and(|of| of == value)) {
                    continue;
                }
                for (price, replaced) in by_class.iter_mut().zip(variant.by_class()) {
                    *price = replaced.or(*price);
                }
            }
        }
        by_class
    }
}

impl Rates {
    /// Returns the cost of these tokens, searches and requests.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn charge(&self, counts: &TokenCounts, web_searches: u64, requests: u64) -> Result<Charge, TooLarge> {
        let mut sum = 0_i128;
        let mut unpriced_tokens = 0_u64;
        let mut add = |rate: i128, count: u64| {
            let cost = rate.checked_mul(i128::from(count));
            sum = cost.and_then(|cost| sum.checked_add(cost)).ok_or(TooLarge)?;
            Ok(())
        };
        for (rate, count) in self.by_class.iter().zip(counts.by_class()) {
            match rate {
                Some(rate) => add(*rate, count)?,
                None if self.is_free => {}
                None => unpriced_tokens = unpriced_tokens.saturating_add(count),
            }
        }
        add(self.web_search, web_searches)?;
        add(self.request, requests)?;
        Ok(Charge { usd: Usd::from_units(sum), unpriced_tokens })
    }

    /// Returns the cost that tokens read from the cache would have had as plain input, minus their actual cost; 0 if
    /// either has no price.
    pub(crate) fn saved_by_cache(&self, counts: &TokenCounts) -> Result<Usd, TooLarge> {
        let [Some(input), Some(cache_read), ..] = self.by_class else { return Ok(Usd::ZERO) };
        let saved =
            input.checked_sub(cache_read).and_then(|rate| rate.checked_mul(i128::from(counts.cache_read)));
        saved.map(Usd::from_units).ok_or(TooLarge)
    }

    /// Returns the price of a class for a million tokens, in units of 10^-24 dollar times a million; none if the class
    /// has no price.
    pub fn for_million(&self, class: Class) -> Option<Usd> {
        let rate = self.by_class[class as usize];
        rate.and_then(|rate| rate.checked_mul(1_000_000)).map(Usd::from_units)
    }

    /// Returns the price of a thousand searches.
    pub fn for_thousand_searches(&self) -> Usd {
        Usd::from_units(self.web_search.saturating_mul(THOUSANDS))
    }

    /// Returns the price of a thousand requests.
    pub fn for_thousand_requests(&self) -> Usd {
        Usd::from_units(self.request.saturating_mul(THOUSANDS))
    }

    /// Returns whether the model is free: the table has the model, without prices.
    pub fn is_free(&self) -> bool {
        self.is_free
    }

    /// Returns the classes that have tokens and no price.
    pub fn unpriced(&self, counts: &TokenCounts) -> Vec<Class> {
        let is_unpriced = |class: &Class| {
            self.by_class[*class as usize].is_none() && counts.by_class()[*class as usize] > 0
        };
        if self.is_free { Vec::new() } else { Class::ALL.into_iter().filter(is_unpriced).collect() }
    }
}
