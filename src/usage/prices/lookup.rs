//! Finds the model whose prices apply, from the names of a provider and of a model.
//!
//! Guarantees: the order of the table decides, as in the package that the table is made from.

use super::records::{ModelRecord, ProviderRecord, TableRecord};
use crate::record::time::Instant;

/// The result of a look-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundModel<'t> {
    /// The requested provider.
    pub provider: ProviderRecord<'t>,
    /// The provider that has the model. It differs if the requested provider falls back to it.
    pub owner: ProviderRecord<'t>,
    pub model: ModelRecord<'t>,
}

/// Why a model has no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// No provider is known to have the model.
    Provider,
    /// The provider has no such model.
    Model,
    /// The table leaves out the prices of the provider.
    LeftOut,
}

impl Unknown {
    /// As documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Model => "model",
            Self::LeftOut => "leftOut",
        }
    }
}

/// Finds a model by its name, at a provider if one is named.
pub(super) fn find<'t>(
    table: TableRecord<'t>,
    provider: Option<&str>,
    model: &str,
) -> Result<FoundModel<'t>, Unknown> {
    let model = model.to_lowercase();
    let mut providers = table.providers();
    let found = match provider {
        Some(name) => {
            let name = name.trim().to_lowercase();
            let by_id = providers.clone().find(|provider| provider.id() == name);
            by_id.or_else(|| providers.find(|provider| provider.is_called(&name)))
        }
        None => providers.find(|provider| provider.claims(&model)),
    };
    let provider = found.ok_or(Unknown::Provider)?;
    if provider.is_left_out() {
        return Err(Unknown::LeftOut);
    }
    let search = |model: &str| model_of(table, provider, model);
    search(&model).or_else(|| search(&with_dashed_date(&model)?)).ok_or(Unknown::Model)
}

/// The first model of a provider, or of those that it falls back to, that matches.
fn model_of<'t>(table: TableRecord<'t>, provider: ProviderRecord<'t>, model: &str) -> Option<FoundModel<'t>> {
    let of_owner = |owner: ProviderRecord<'t>| {
        let model = owner.models().find(|candidate| candidate.is_called(model))?;
        Some(FoundModel { provider, owner, model })
    };
    let by_id = |id: &[u8]| table.providers().find(|provider| provider.id().as_bytes() == id);
    of_owner(provider).or_else(|| provider.fallback().filter_map(by_id).find_map(of_owner))
}

/// The name with `-20250929` written as `-2025-09-29`; `None` without such a date.
fn with_dashed_date(model: &str) -> Option<String> {
    let bytes = model.as_bytes();
    (0..bytes.len()).find_map(|at| {
        let digits = bytes.get(at + 1..at + 9)?;
        let is_number = bytes[at] == b'-'
            && digits.starts_with(b"20")
            && digits.iter().all(u8::is_ascii_digit)
            && matches!(bytes.get(at + 9), None | Some(b'-' | b':'));
        let part = |from: usize, to: usize| &model[at + 1 + from..at + 1 + to];
        let date = is_number.then(|| format!("{}-{}-{}", part(0, 4), part(4, 6), part(6, 8)))?;
        Instant::of_turn(&format!("{date}T00:00Z"))?;
        Some(format!("{}{date}{}", &model[..=at], &model[at + 9..]))
    })
}

/// Names that agents use for providers, each with the provider's id.
const ALIASES: [(&str, &str); 12] = [
    ("amazon-bedrock", "aws"),
    ("bedrock", "aws"),
    ("fireworks-ai", "fireworks"),
    ("kimi-for-coding", "moonshotai"),
    ("moonshotai-cn", "moonshotai"),
    ("minimax-cn", "minimax"),
    ("vertex", "google"),
    ("xai", "x-ai"),
    ("z-ai", "zai"),
    ("z.ai", "zai"),
    ("zai-coding-plan", "zai"),
    ("zhipuai-coding-plan", "zhipuai"),
];

/// Makers of models. The names of models at Bedrock begin with these.
const BEDROCK_MAKERS: [&str; 12] = [
    "anthropic",
    "amazon",
    "deepseek",
    "meta",
    "mistral",
    "moonshot",
    "moonshotai",
    "openai",
    "qwen",
    "minimax",
    "zai",
    "nvidia",
];

fn alias(provider: &str) -> String {
    let provider = provider.trim().to_lowercase();
    let known = ALIASES.iter().find(|(alias, _)| *alias == provider);
    known.map_or(provider, |(_, meant)| (*meant).to_owned())
}

/// Returns whether the name has the form of Bedrock: `anthropic.claude...`, `us.anthropic.claude...`.
fn is_of_bedrock(model: &str) -> bool {
    let by_maker =
        |model: &str| model.split_once('.').is_some_and(|(maker, _)| BEDROCK_MAKERS.contains(&maker));
    let is_region = |region: &str| {
        !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    by_maker(model) || model.split_once('.').is_some_and(|(region, rest)| is_region(region) && by_maker(rest))
}

/// A look-up in a table: the name of a provider, or none, and the name of a model.
pub(super) type LookUp = (Option<String>, String);

/// Returns the look-ups for a turn, in this order. The first that finds a model counts.
pub(super) fn candidates(provider: Option<&str>, model: &str) -> Vec<LookUp> {
    let model = model.trim().to_lowercase();
    let mut list = LookUps(Vec::new());
    if let Some(provider) =
        provider.map(|provider| provider.trim().to_lowercase()).filter(|name| !name.is_empty())
    {
        list.both(Some(&alias(&provider)), &model);
        if let Some(rest) = model.strip_prefix(&provider).and_then(|rest| rest.strip_prefix('/')) {
            list.both(Some(&alias(&provider)), rest);
        }
    }
    if is_of_bedrock(&model) {
        list.both(Some("aws"), &model);
    }
    let mut name = &*model;
    if let Some((front, rest)) = model.split_once('/') {
        if !front.is_empty() {
            list.both(Some(&alias(front)), rest);
        }
        list.both(Some("openrouter"), &model);
        name = model.rsplit_once('/').map_or(name, |(_, last)| last);
    }
    if name.starts_with("glm-") {
        list.both(Some("zai"), name);
        list.both(Some("zhipuai"), name);
    } else if name.starts_with("qwen") {
        list.both(Some("openrouter"), &format!("qwen/{name}"));
    } else if name.starts_with("mimo-") {
        list.both(Some("openrouter"), &format!("xiaomi/{name}"));
    } else if name.starts_with("minimax-") {
        list.both(Some("minimax"), name);
    }
    list.both(None, name);
    list.0
}

struct LookUps(Vec<LookUp>);

impl LookUps {
    /// Adds a look-up of the model's name, and of the name without `[...]` at its end.
    fn both(&mut self, provider: Option<&str>, model: &str) {
        let plain = model.ends_with(']').then(|| model.rfind('[')).flatten().map(|at| &model[..at]);
        for model in [Some(model), plain].into_iter().flatten() {
            let candidate = (provider.map(str::to_owned), model.to_owned());
            if !self.0.contains(&candidate) {
                self.0.push(candidate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_dates_become_dashed() {
        let dashed = |model: &str| with_dashed_date(model);
        assert_eq!(dashed("claude-20250929"), Some("claude-2025-09-29".to_owned()));
        assert_eq!(dashed("a-20250929-v1:0"), Some("a-2025-09-29-v1:0".to_owned()));
        assert_eq!(dashed("a-20251399-20250101:x"), Some("a-20251399-2025-01-01:x".to_owned()));
        for model in ["", "-", "a-20250230", "a-19990101", "a-202509290", "a20250929", "a-2025092é"] {
            assert_eq!(dashed(model), None, "{model}");
        }
    }

    #[test]
    fn candidates_come_in_order_and_once() {
        let asked = |provider, model| -> Vec<String> {
            let name = |(provider, model): LookUp| format!("{}:{model}", provider.unwrap_or_default());
            candidates(provider, model).into_iter().map(name).collect()
        };
        assert_eq!(asked(None, " Claude-X[1m] "), [":claude-x[1m]", ":claude-x"]);
        assert_eq!(
            asked(Some("xAI"), "xai/grok"),
            ["x-ai:xai/grok", "x-ai:grok", "openrouter:xai/grok", ":grok"]
        );
        assert_eq!(asked(None, "us.anthropic.c"), ["aws:us.anthropic.c", ":us.anthropic.c"]);
        assert_eq!(asked(None, "/glm-5"), ["openrouter:/glm-5", "zai:glm-5", "zhipuai:glm-5", ":glm-5"]);
    }
}
