//! Converts the usage of a turn, as its source records it, into tokens that count and a request that has a price.

use super::prices::{RequestContext, Size, TokenCounts};

/// The recorded usage of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordedUsage {
    /// Input without cached tokens.
    pub input: u64,
    /// Output. The source decides whether it includes reasoning.
    pub output: u64,
    /// Reasoning.
    pub reasoning: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Input written to the cache for 5 minutes, or for an unknown time.
    pub cache_create_5m: u64,
    /// Input written to the cache for 1 hour.
    pub cache_create_1h: u64,
}

impl RecordedUsage {
    /// Returns the tokens of a turn of `source`. The output includes reasoning.
    ///
    /// The recorded output of these sources includes reasoning; the output of other sources does not.
    pub fn counts(&self, source: &str) -> TokenCounts {
        let is_inside = matches!(source, "claude-code" | "anthropic-api" | "codex" | "openai-api");
        let (output, reasoning) = if is_inside {
            (self.output, self.reasoning.min(self.output))
        } else {
            (self.output.saturating_add(self.reasoning), self.reasoning)
        };
        TokenCounts {
            input: self.input,
            cache_read: self.cache_read,
            cache_write_5m: self.cache_create_5m,
            cache_write_1h: self.cache_create_1h,
            output,
            reasoning,
        }
    }
}

/// The keys of a turn's enrichment that decide its price.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PricingKeys {
    /// `provider`: the provider that served the turn.
    pub provider: Option<String>,
    /// `serviceTier`, `speed` and `processing`, as a request's context has them.
    pub context: RequestContext,
    /// `webSearches`.
    pub web_searches: u64,
    /// `contextTokens`: the size of the request.
    pub context_tokens: Option<u64>,
}

impl PricingKeys {
    /// Reads the keys. `get` returns the value of a key of the enrichment.
    pub fn read<'e>(get: impl Fn(&str) -> Option<std::borrow::Cow<'e, str>>) -> Self {
        let mut context = RequestContext::new();
        for (key, of_context) in
            [("serviceTier", "service_tier"), ("speed", "speed"), ("processing", "processing")]
        {
            let value = get(key).filter(|value| !matches!(&**value, "" | "standard" | "auto"));
            if let Some(value) = value {
                context.insert(of_context.to_owned(), value.into_owned());
            }
        }
        if context.get("service_tier").is_some_and(|tier| tier == "batch") {
            context.remove("service_tier");
            context.insert("processing".to_owned(), "batch".to_owned());
        }
        let number = |key: &str, digits_max: usize| {
            let text = get(key)?;
            let is_number =
                (1..=digits_max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            if is_number { text.parse::<u64>().ok() } else { None }
        };
        Self {
            provider: get("provider").map(std::borrow::Cow::into_owned),
            context,
            web_searches: number("webSearches", 9).unwrap_or(0),
            context_tokens: number("contextTokens", 15),
        }
    }

    /// Returns the size of the request of a turn of `source`. A turn of Codex is the sum of the requests of a task.
    pub fn size(&self, source: &str) -> Size {
        match self.context_tokens {
            Some(tokens) => Size::Tokens(tokens),
            None if source == "codex" => Size::Unknown,
            None => Size::AllInput,
        }
    }
}
