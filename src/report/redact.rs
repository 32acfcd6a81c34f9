//! Replaces names by numbers, for a page that can be shown to others.
//!
//! Guarantees: no answer, and so neither the page nor its data block, has a name of a project, session, machine or tag
//! (key and value), or a path; nor a model, provider, source, subagent, tool or activity that is a path, an address or an
//! id ([`is_private`]). The same name has the same number everywhere. Numbers are in the order of cost.

use std::collections::HashMap;
use std::path::PathBuf;

use super::gather::{PageAnswers, session_id};
use crate::record::message_id::is_uuid;
use crate::usage::{Answer, Dimension, Filters, Pattern};

/// The numbers of names of one kind.
struct NumberedNames {
    kind: String,
    numbers: HashMap<String, usize>,
}

impl NumberedNames {
    fn new(kind: impl Into<String>, names: impl IntoIterator<Item = String>) -> Self {
        let mut numbers = HashMap::new();
        for name in names {
            let next = numbers.len() + 1;
            numbers.entry(name).or_insert(next);
        }
        Self { kind: kind.into(), numbers }
    }

    /// The numbers of the values of an answer's only dimension.
    fn of_values(kind: impl Into<String>, answer: &Answer) -> Self {
        Self::new(kind, answer.rows.iter().filter_map(|row| row.values.first().cloned().flatten()))
    }

    /// The private values of one of an answer's dimensions.
    fn of_private_values(kind: &str, place: usize, answer: &Answer) -> Self {
        let values = answer.rows.iter().filter_map(|row| row.values.get(place).cloned().flatten());
        Self::new(kind, values.filter(|value| is_private(value)))
    }

    /// The replacement of a name. A name without a number occurs only in a filter, or arrived after the names were
    /// chosen.
    fn called(&self, name: &str) -> String {
        match self.numbers.get(name) {
            Some(number) => format!("{} {number}", self.kind),
            None => format!("another {}", self.kind),
        }
    }

    fn patterns(&self, patterns: &mut [Pattern], is_named: fn(&str) -> bool) {
        for pattern in patterns.iter_mut().filter(|pattern| is_named(pattern.as_str())) {
            *pattern = Pattern::new(self.called(pattern.as_str()));
        }
    }
}

/// Whether a pattern names a value.
fn is_value(pattern: &str) -> bool {
    pattern != "(none)"
}

/// Whether a name identifies a file, a host, an account or a person: a path, an address, an Amazon or Google resource name, an
/// id, a key (`sk-...`), a model tuned for an organisation (`ft:gpt-4o:ORG:...`). `%` may be an encoded `@` or `/`.
/// Gateways put names of their own before a path or an address, as in `hosted_vllm//home/ann/x`, so both are looked for
/// after each `/`, too.
fn is_private(name: &str) -> bool {
    const DIGITS_OF_ACCOUNTS: usize = 12;
    let bytes = name.as_bytes();
    let has_account = bytes
        .chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit())
        .any(|run| run.len() >= DIGITS_OF_ACCOUNTS && run[0].is_ascii_digit());
    let has_uuid = bytes.windows(36).any(is_uuid);
    name.starts_with(['/', '.'])
        || name.contains(['\\', '@', '%'])
        || name.contains("//")
        || name.contains("/home/")
        || name.contains("/Users/")
        || name.starts_with("arn:")
        || name.starts_with("projects/")
        || name.split('/').any(is_place)
        || name
            .split(['/', ':'])
            .any(|part| part == "ft" || part.starts_with("ft-") || part.starts_with("sk-"))
        || has_account
        || has_uuid
}

/// Whether a part of a name between slashes says where something is: a folder, a drive, the scheme `file:`, a host with
/// a port, or an IPv4 address. The version of a model (`v1:0`) has one digit, a port at least two.
fn is_place(part: &str) -> bool {
    let is_drive = part.len() == 2 && part.as_bytes()[0].is_ascii_alphabetic() && part.ends_with(':');
    let is_address = |host: &str| {
        host.split('.').count() == 4 && host.split('.').all(|number| number.parse::<u8>().is_ok())
    };
    let (host, port) = part.rsplit_once(':').unwrap_or((part, ""));
    let is_port = (2..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    part.starts_with('~')
        || part == "."
        || part == ".."
        || is_drive
        || part.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
        || is_port && !host.is_empty()
        || is_address(host)
}

/// The numbers of all names.
struct AllNumbers {
    projects: NumberedNames,
    sessions: NumberedNames,
    machines: NumberedNames,
    models: NumberedNames,
    providers: NumberedNames,
    sources: NumberedNames,
    subagents: NumberedNames,
    tools: NumberedNames,
    activities: NumberedNames,
    tag_keys: NumberedNames,
    tag_values: HashMap<String, NumberedNames>,
}

/// Replaces names by numbers in all answers.
pub(super) fn number_names(gathered: &mut PageAnswers) {
    let key_of = |answer: &Answer| match answer.question.by.first() {
        Some(Dimension::Tag(key)) => Some(key.clone()),
        _ => None,
    };
    let keys: Vec<String> = gathered.tags.iter().filter_map(key_of).collect();
    let filter_keys = gathered.question.filters.tag.iter().map(|(key, _)| key.clone());
    let tag_keys = NumberedNames::new("tag", keys.iter().cloned().chain(filter_keys));
    let values = keys.iter().zip(&gathered.tags);
    let numbers = AllNumbers {
        projects: NumberedNames::of_values("project", &gathered.projects),
        sessions: NumberedNames::new("session", gathered.sessions.rows.iter().filter_map(session_id)),
        machines: NumberedNames::of_values("machine", &gathered.machines),
        models: NumberedNames::of_private_values("model", 0, &gathered.models),
        providers: NumberedNames::of_private_values("provider", 1, &gathered.models),
        sources: NumberedNames::of_private_values("source", 0, &gathered.sources),
        subagents: NumberedNames::of_private_values("subagent", 0, &gathered.subagents),
        tools: NumberedNames::of_private_values("tool", 0, &gathered.tools),
        activities: NumberedNames::of_private_values("activity", 0, &gathered.activities),
        tag_values: values
            .map(|(key, answer)| (key.clone(), NumberedNames::of_values("value", answer)))
            .collect(),
        tag_keys,
    };
    numbers.filters(&mut gathered.question.filters);
    gathered.answers_mut().into_iter().for_each(|answer| numbers.answer(answer));
    for priced_as in gathered.priced_as.iter_mut().filter(|model| is_private(model)) {
        *priced_as = "own prices".to_owned();
    }
}

impl AllNumbers {
    /// The replacement of a value; `None` if the value keeps its name.
    fn called(&self, dimension: &Dimension, value: &str) -> Option<String> {
        let numbers = match dimension {
            Dimension::Project => &self.projects,
            Dimension::Session => &self.sessions,
            Dimension::Machine => &self.machines,
            Dimension::Tag(key) => self.tag_values.get(key)?,
            _ if !is_private(value) => return None,
            Dimension::Model => &self.models,
            Dimension::Provider => &self.providers,
            Dimension::Source => &self.sources,
            Dimension::Subagent => &self.subagents,
            Dimension::Tool => &self.tools,
            Dimension::Activity => &self.activities,
            Dimension::Weekday | Dimension::HourOfDay => return None,
        };
        Some(numbers.called(value))
    }

    fn answer(&self, answer: &mut Answer) {
        answer.ledger.path = PathBuf::from("redacted");
        if let Some((path, _)) = &mut answer.prices.own {
            *path = PathBuf::from("redacted");
        }
        for row in &mut answer.rows {
            for (dimension, value) in answer.question.by.iter().zip(&mut row.values) {
                if let Some(value) = value
                    && let Some(called) = self.called(dimension, value)
                {
                    *value = called;
                }
            }
            if answer.question.period == Some(crate::usage::Period::Session)
                && let Some(period) = &mut row.period
                && let Some((source, session)) = period.key.split_once('/')
            {
                // In keys of sessions `/` and `%` of the source are encoded.
                let plain = source.replace("%2F", "/").replace("%25", "%");
                let source = self.called(&Dimension::Source, &plain).unwrap_or_else(|| source.to_owned());
                period.key = format!("{source}/{}", self.sessions.called(session));
            }
        }
        for unpriced in &mut answer.unpriced {
            if let Some(called) = self.called(&Dimension::Model, &unpriced.model) {
                unpriced.model = called;
            }
        }
        for dimension in &mut answer.question.by {
            if let Dimension::Tag(key) = dimension {
                *key = self.tag_keys.called(key);
            }
        }
        self.filters(&mut answer.question.filters);
    }

    fn filters(&self, filters: &mut Filters) {
        self.projects.patterns(&mut filters.project, is_value);
        self.sessions.patterns(&mut filters.session, is_value);
        self.machines.patterns(&mut filters.machine, is_value);
        self.models.patterns(&mut filters.model, is_private);
        self.providers.patterns(&mut filters.provider, is_private);
        self.sources.patterns(&mut filters.source, is_private);
        self.subagents.patterns(&mut filters.subagent, is_private);
        self.activities.patterns(&mut filters.activity, is_private);
        for (key, pattern) in &mut filters.tag {
            let called = self.tag_values.get(key).map(|values| values.called(pattern.as_str()));
            *key = self.tag_keys.called(key);
            *pattern = Pattern::new(called.unwrap_or_else(|| "another value".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_addresses_and_ids_are_private_and_names_of_models_are_not() {
        for name in [
            "/models/llama.gguf",
            "~/models/x",
            "./x",
            "C:/models/x",
            "D:\\models\\x",
            "http://10.0.0.7:8080/v1",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc",
            "projects/mine/locations/europe-west4/endpoints/1",
            "endpoint-123456789012",
            "ft:gpt:ada@example.com",
            "deployment-0b5a1c2e-7a35-4b5f-9d0e-0123456789ab",
            "hosted_vllm//home/ann/x",
            "hosted_vllm//models/x",
            "hosted_vllm/home/ann/x",
            "vllm/Users/ann/x",
            "vllm/~/x",
            "vllm/../x",
            "vllm/C:/models/x",
            "10.9.8.7:8080/m",
            "openai/10.9.8.7:8080/m",
            "10.9.8.7/m",
            "gpu-box:8000",
            "gpu.example.org:443/m",
            "file:/home/bob/x",
            "FILE:x.gguf",
            "vllm/file:x.gguf",
            "ft:gpt-4o:org::abc",
            "openai/ft:gpt-4o:org",
            "davinci:ft-org-2026",
            "sk-ant-api03-abc",
            "user%40example.com",
        ] {
            assert!(is_private(name), "{name}");
        }
        for name in [
            "",
            "claude-opus-4-7",
            "claude-sonnet-4-5-20250929",
            "openrouter/x-ai/grok-4",
            "us.anthropic.claude-opus-4-7-v1:0",
            "claude-sonnet-4-5[1m]",
            "accounts/fireworks/models/deepseek-v3",
            "<synthetic>",
            "mcp__issues__search",
            "my-gateway",
            "anthropic.claude-v2:1",
            "ollama/llama3.1:8b",
            "claude-2.1",
            "openrouter/home-grown/model",
            "accounts/profile/models/x",
            "gemma:20251231",
        ] {
            assert!(!is_private(name), "{name}");
        }
    }
}
