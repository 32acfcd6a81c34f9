//! The terms on which a turn was served, where they decide about its price, and the stamps that say so.
//!
//! An ordinary turn has no stamp, because stamps of every turn would double the ledger. `docs/agents.md` lists what is
//! ordinary.

use super::js::RecordText;

/// What a log says of the terms of a turn. A term that is missing is the ordinary one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TurnTerms {
    /// Who served the turn, unless the agent's own vendor did.
    pub provider: Option<Vec<u8>>,
    pub service_tier: Option<Vec<u8>>,
    pub speed: Option<Vec<u8>>,
    pub web_searches: u64,
    /// The size of the request in tokens, where the turn's own counts do not tell it.
    pub context_tokens: Option<u64>,
}

/// A word of a log that changes a price; none when it names the ordinary terms.
pub(super) fn extraordinary(word: &[u8]) -> Option<Vec<u8>> {
    (!matches!(word, b"" | b"standard" | b"default" | b"auto")).then(|| word.to_vec())
}

impl TurnTerms {
    /// The stamp of the message; none when the terms are the ordinary ones, or when the message has no name.
    pub(super) fn stamp(&self, session: &[u8], message: &[u8], ts: &[u8]) -> Option<Vec<u8>> {
        if *self == TurnTerms::default() || session.is_empty() || message.is_empty() {
            return None;
        }
        let mut selector = RecordText::default();
        selector.text("sessionId", session);
        selector.text("messageId", message);
        let mut enrichment = RecordText::default();
        enrichment.maybe_text("provider", self.provider.as_deref());
        match self.service_tier.as_deref() {
            // A batch is a way of processing; the logs of Claude Code call it a tier.
            Some(b"batch") => enrichment.text("processing", b"batch"),
            tier => enrichment.maybe_text("serviceTier", tier),
        }
        enrichment.maybe_text("speed", self.speed.as_deref());
        if self.web_searches > 0 {
            enrichment.text("webSearches", self.web_searches.to_string().as_bytes());
        }
        if let Some(tokens) = self.context_tokens {
            enrichment.text("contextTokens", tokens.to_string().as_bytes());
        }
        Some(stamp_text(ts, &selector.finish(), &enrichment.finish()))
    }
}

/// The stamp that names the branch on which a session works from `ts` on. `is_first` when the session had no branch before:
/// then the stamp is of the whole session.
pub(super) fn branch_stamp(session: &[u8], ts: &[u8], branch: &[u8], is_first: bool) -> Vec<u8> {
    let mut selector = RecordText::default();
    selector.text("sessionId", session);
    if !is_first {
        let mut range = RecordText::default();
        range.text("fromTs", ts);
        selector.raw("range", &range.finish());
    }
    let mut enrichment = RecordText::default();
    enrichment.text("gitBranch", branch);
    stamp_text(ts, &selector.finish(), &enrichment.finish())
}

/// A stamp line. `selector` and `enrichment` are JSON text.
pub(super) fn stamp_text(ts: &[u8], selector: &[u8], enrichment: &[u8]) -> Vec<u8> {
    let mut stamp = RecordText::default();
    stamp.count("v", 1);
    stamp.text("kind", b"stamp");
    stamp.text("ts", ts);
    stamp.raw("selector", selector);
    stamp.raw("enrichment", enrichment);
    stamp.finish()
}

/// The sizes of the requests that a turn of several requests is made of, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RequestSizes {
    /// The smallest and the largest; none before the first request. The smallest is 0 when a request's own size is not known.
    bounds: Option<(f64, f64)>,
}

/// The sizes at which some price of the table changes.
const SIZE_TIERS: [f64; 8] =
    [32_000.0, 100_000.0, 128_000.0, 199_999.0, 200_000.0, 256_000.0, 272_000.0, 512_000.0];
/// The same for the models of OpenAI, which Codex asks unless told otherwise.
const SIZE_TIERS_OF_OPENAI: [f64; 1] = [272_000.0];

impl RequestSizes {
    /// Adds requests that together had `size` tokens of input. `is_one` when they are known to be a single request.
    pub(super) fn add(&mut self, size: f64, is_one: bool) {
        let smallest = if is_one { size } else { 0.0 };
        let other = RequestSizes { bounds: Some((smallest, size)) };
        self.join(other);
    }

    /// Adds the requests of the same turn under its second beginning.
    pub(super) fn join(&mut self, other: RequestSizes) {
        self.bounds = match (self.bounds, other.bounds) {
            (Some((low, high)), Some((other_low, other_high))) => {
                Some((low.min(other_low), high.max(other_high)))
            }
            (bounds, other) => bounds.or(other),
        };
    }

    /// The size that stands for every request of a turn whose input is `sum` tokens: one that is charged as each of them is.
    /// None when the sum is charged so, too, or when the requests belong to different tiers.
    pub(super) fn telling(&self, sum: f64, is_of_openai: bool) -> Option<u64> {
        let tiers: &[f64] = if is_of_openai { &SIZE_TIERS_OF_OPENAI } else { &SIZE_TIERS };
        let (smallest, largest) = self.bounds?;
        // A tier begins above its size.
        let is_between = |low: f64, high: f64| tiers.iter().any(|tier| low <= *tier && *tier < high);
        (is_between(0.0, sum) && !is_between(smallest, largest)).then_some(largest as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_those_of_the_price_table() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../usage/prices/prices.json")).unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        assert_eq!(numbers(&table["thresholds"]), SIZE_TIERS);
        let openai =
            table["providers"].as_array().unwrap().iter().find(|provider| provider["id"] == "openai");
        let mut starts = std::collections::BTreeSet::new();
        for model in openai.unwrap()["models"].as_array().unwrap() {
            let prices =
                model["prices"].as_array().unwrap().iter().flat_map(|price| price.as_object().unwrap());
            for (_, price) in prices {
                let steps = price.as_array().into_iter().flatten().filter_map(serde_json::Value::as_array);
                starts.extend(steps.map(|step| step[0].as_u64().unwrap()));
            }
        }
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), [272_000]);
    }

    #[test]
    fn a_size_is_told_when_it_stands_for_all_requests() {
        let of = |requests: &[(f64, bool)]| {
            let mut sizes = RequestSizes::default();
            requests.iter().for_each(|(size, is_one)| sizes.add(*size, *is_one));
            sizes
        };
        let (small, large) = ((200_000.0, true), (300_000.0, true));
        assert_eq!(RequestSizes::default().telling(900_000.0, true), None);
        assert_eq!(
            of(&[(100_000.0, true), (100_000.0, true)]).telling(200_000.0, true),
            None,
            "an ordinary turn"
        );
        assert_eq!(of(&[small, small]).telling(400_000.0, true), Some(200_000));
        assert_eq!(of(&[large, (400_000.0, true)]).telling(700_000.0, true), Some(400_000));
        assert_eq!(of(&[small, large]).telling(500_000.0, true), None, "two tiers");
        assert_eq!(of(&[(300_000.0, false)]).telling(300_000.0, true), None, "perhaps two requests");
        assert_eq!(of(&[(200_000.0, false), small]).telling(400_000.0, true), Some(200_000));
        assert_eq!(of(&[(272_000.0, true), (272_000.0, true)]).telling(544_000.0, true), Some(272_000));
        assert_eq!(of(&[(60_000.0, true), (20_000.0, true)]).telling(80_000.0, false), None);
        assert_eq!(of(&[(60_000.0, true), (50_000.0, true)]).telling(110_000.0, false), Some(60_000));
    }
}
