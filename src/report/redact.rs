//! Replaces names by numbers, for a page that can be shown to others.
//!
//! Guarantees: no answer, and so neither the page nor its data block, has a name of a project, session, machine or tag
//! (key and value), or a path; the same name has the same number everywhere. Numbers are in the order of cost.

use std::collections::HashMap;
use std::path::PathBuf;

use super::gather::{Gathered, session_id};
use crate::usage::{Answer, Dimension, Filters, Pattern};

/// The numbers of names of one kind.
struct Numbers {
    kind: String,
    numbers: HashMap<String, usize>,
}

impl Numbers {
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

    /// The replacement of a name. A name without a number occurs only in a filter, or arrived after the names were
    /// chosen.
    fn called(&self, name: &str) -> String {
        match self.numbers.get(name) {
            Some(number) => format!("{} {number}", self.kind),
            None => format!("another {}", self.kind),
        }
    }

    fn patterns(&self, patterns: &mut [Pattern]) {
        for pattern in patterns.iter_mut().filter(|pattern| pattern.as_str() != "(none)") {
            *pattern = Pattern::new(self.called(pattern.as_str()));
        }
    }
}

/// The numbers of all names.
struct AllNumbers {
    projects: Numbers,
    sessions: Numbers,
    machines: Numbers,
    tag_keys: Numbers,
    tag_values: HashMap<String, Numbers>,
}

/// Replaces names by numbers in all answers.
pub(super) fn number_names(gathered: &mut Gathered) {
    let key_of = |answer: &Answer| match answer.question.by.first() {
        Some(Dimension::Tag(key)) => Some(key.clone()),
        _ => None,
    };
    let keys: Vec<String> = gathered.tags.iter().filter_map(key_of).collect();
    let filter_keys = gathered.question.filters.tag.iter().map(|(key, _)| key.clone());
    let tag_keys = Numbers::new("tag", keys.iter().cloned().chain(filter_keys));
    let values = keys.iter().zip(&gathered.tags);
    let numbers = AllNumbers {
        projects: Numbers::of_values("project", &gathered.projects),
        sessions: Numbers::new("session", gathered.sessions.rows.iter().filter_map(session_id)),
        machines: Numbers::of_values("machine", &gathered.machines),
        tag_values: values.map(|(key, answer)| (key.clone(), Numbers::of_values("value", answer))).collect(),
        tag_keys,
    };
    numbers.filters(&mut gathered.question.filters);
    gathered.answers_mut().into_iter().for_each(|answer| numbers.answer(answer));
}

impl AllNumbers {
    fn of(&self, dimension: &Dimension) -> Option<&Numbers> {
        match dimension {
            Dimension::Project => Some(&self.projects),
            Dimension::Session => Some(&self.sessions),
            Dimension::Machine => Some(&self.machines),
            Dimension::Tag(key) => self.tag_values.get(key),
            _ => None,
        }
    }

    fn answer(&self, answer: &mut Answer) {
        answer.ledger.path = PathBuf::from("redacted");
        if let Some((path, _)) = &mut answer.prices.own {
            *path = PathBuf::from("redacted");
        }
        for row in &mut answer.rows {
            for (dimension, value) in answer.question.by.iter().zip(&mut row.values) {
                if let (Some(numbers), Some(value)) = (self.of(dimension), value) {
                    *value = numbers.called(value);
                }
            }
            if answer.question.period == Some(crate::usage::Period::Session)
                && let Some(period) = &mut row.period
                && let Some((source, session)) = period.key.split_once('/')
            {
                period.key = format!("{source}/{}", self.sessions.called(session));
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
        self.projects.patterns(&mut filters.project);
        self.sessions.patterns(&mut filters.session);
        self.machines.patterns(&mut filters.machine);
        for (key, pattern) in &mut filters.tag {
            let called = self.tag_values.get(key).map(|values| values.called(pattern.as_str()));
            *key = self.tag_keys.called(key);
            *pattern = Pattern::new(called.unwrap_or_else(|| "another value".to_owned()));
        }
    }
}
