//! Folds stamps into turns: finds the stamps that apply to a turn, and makes one object of their enrichments.
//!
//! Computes only; reads no file and no database. Guarantees the result of the plain rule (take every matching stamp in the
//! order of time and then of byte offset, assign its keys over one object) at a cost that does not grow with turns x stamps.
//!
//! How: for each key of the object, only two stamps matter: the first that assigned the key (it decides the key's place) and
//! the last (it decides the value). "First and last per key" is a summary that can be merged from parts in any order. So stamps
//! are grouped by the fields in their selectors (session, message, both, neither). Each group keeps the summary of its
//! unbounded stamps. Stamps with a time range are in a segment tree over the group's range bounds, or in a list if there are
//! few. A turn merges four groups: one summary and at most log2(bounds) tree nodes each.
//!
//! Rejected: precomputing the object of every elementary interval of time (quadratic when long ranges overlap), and
//! caching by session (message and range stamps would have to invalidate it).

use std::collections::HashMap;
use std::fmt::Write as _;

use bumpalo::Bump;

use super::columns::turns::enrichment;

/// How many keys of an enrichment have a column of their own.
const KEY_COLUMNS: usize = enrichment::FIELDS.len();

/// The parts of a stamp that folding needs.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// The time of the stamp; compared bytewise.
    pub ts: &'a str,
    /// Where the stamp's line starts in the ledger, in bytes; decides between stamps with the same `ts`.
    pub offset: u64,
    /// Which turns the stamp applies to.
    pub selector: Selector<'a>,
    /// The assignments, in the order of the text, each key once.
    pub entries: &'a [Assignment<'a>],
}

/// Which turns a stamp applies to: turns that match every field present. A selector without fields matches no turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selector<'a> {
    /// The session's id.
    pub session: Option<&'a str>,
    /// The message's id.
    pub message: Option<&'a str>,
    /// A range of time; both bounds are included.
    pub range: Option<TimeRange<'a>>,
}

/// A range of time, compared bytewise with a turn's `ts`. A missing bound does not limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeRange<'a> {
    /// The first instant.
    pub from: Option<&'a str>,
    /// The last instant.
    pub to: Option<&'a str>,
}

/// One assignment of a stamp.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    /// The key as a JSON string, quotes included; two keys are equal when these texts are equal.
    pub key_json: &'a str,
    /// The key's number when the key is an array index in JavaScript: such keys come first, ascending.
    pub array_index: Option<u32>,
    /// The assigned value.
    pub value: Assigned<'a>,
}

/// An assigned string.
#[derive(Debug, Clone, Copy)]
pub struct Assigned<'a> {
    /// As JSON text.
    pub json: &'a str,
    /// The text in the form that a column of its own stores.
    pub plain: &'a str,
}

impl Assigned<'_> {
    /// A copy in `arena`; where no character is escaped, both texts share one copy.
    pub fn copied<'b>(&self, arena: &'b Bump) -> Assigned<'b> {
        let json = &*arena.alloc_str(self.json);
        let inside = json.get(1..json.len().saturating_sub(1));
        let plain = inside.filter(|inside| *inside == self.plain);
        Assigned { json, plain: plain.unwrap_or_else(|| arena.alloc_str(self.plain)) }
    }
}

/// The result of folding the stamps of one turn.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Enrichment<'a> {
    /// The values of the keys that have a column of their own: `workflowId`, `agentId`, `persona`, `tier`.
    pub columns: [Option<&'a str>; KEY_COLUMNS],
    /// The whole object as compact JSON, keys in JavaScript's order; `{}` when no stamp matched.
    pub json: &'a str,
}

/// The enrichment of a turn that no stamp matches.
pub const NOTHING: Enrichment<'static> = Enrichment { columns: [None; KEY_COLUMNS], json: "{}" };

/// The first and the last stamp that assigned one key. `first` and `last` have the stamp's rank in the upper half, and the
/// place among the stamp's entries in the lower half.
#[derive(Debug, Clone, Copy)]
struct KeySlot<'a> {
    key: u32,
    first: u64,
    last: u64,
    value: &'a Assigned<'a>,
}

/// Slots by key. Slots are appended as stamps come, and put in order when their number has doubled, so that an assignment costs
/// the logarithm of the number of keys whatever their order.
#[derive(Debug, Clone, Default)]
struct KeySummary<'a> {
    slots: Vec<KeySlot<'a>>,
    ordered: usize,
}

impl<'a> KeySummary<'a> {
    /// Assigns the slots of one stamp.
    fn assign(&mut self, entries: &[KeySlot<'a>]) {
        if self.slots.is_empty() {
            // Most groups get one stamp; spare capacity would be most of their memory.
            self.slots.reserve_exact(entries.len());
        }
        self.slots.extend_from_slice(entries);
        if self.slots.len() > 2 * self.ordered.max(16) {
            self.put_in_order();
        }
    }

    /// Leaves one slot for each key, sorted by key.
    fn put_in_order(&mut self) {
        self.slots.sort_unstable_by_key(|slot| (slot.key, slot.last));
        self.slots.dedup_by(|later, kept| {
            if later.key != kept.key {
                return false;
            }
            *kept = KeySlot { first: kept.first.min(later.first), ..*later };
            true
        });
        self.ordered = self.slots.len();
    }
}

#[derive(Debug)]
struct FoldKey<'a> {
    json: &'a str,
    array_index: Option<u32>,
    /// The key's own column, if there is one.
    column: Option<usize>,
}

#[derive(Debug, Default)]
struct StampGroup<'a> {
    open: KeySummary<'a>,
    /// Stamps with a range in the order of time, unless they are in the tree.
    ranged: Vec<Ranged<'a>>,
    tree: Option<Box<RangeTree<'a>>>,
}

/// A stamp with a range.
#[derive(Debug)]
struct Ranged<'a> {
    range: TimeRange<'a>,
    slots: Vec<KeySlot<'a>>,
}

impl Ranged<'_> {
    fn matches(&self, ts: &str) -> bool {
        self.range.from.is_none_or(|from| from <= ts) && self.range.to.is_none_or(|to| ts <= to)
    }
}

/// A group with at most this many ranged stamps is searched one by one: a tree would need several times their memory.
const RANGED_WITHOUT_TREE: usize = 32;

/// Stamps with a range, in a segment tree over the distinct bounds of their group.
#[derive(Debug)]
struct RangeTree<'a> {
    /// Sorted. A cut `(ts, false)` is just before `ts`, `(ts, true)` just after.
    cuts: Vec<(&'a str, bool)>,
    /// A heap-shaped tree over the `cuts.len() + 1` elementary intervals; the leaf of interval `i` is `leaves + i`.
    nodes: Vec<KeySummary<'a>>,
    leaves: usize,
}

/// Every stamp of a ledger, ready to be folded into turns.
#[derive(Debug, Default)]
pub struct Fold<'a> {
    keys: Vec<FoldKey<'a>>,
    everywhere: StampGroup<'a>,
    by_session: HashMap<&'a str, StampGroup<'a>>,
    by_message: HashMap<&'a str, StampGroup<'a>>,
    by_both: HashMap<(&'a str, &'a str), StampGroup<'a>>,
    stamps: usize,
}

/// The text is dropped, not used again, when a long object made it grow beyond this size.
const SCRATCH_KEEP_BYTES: usize = 1 << 20;

/// Working memory of [`Fold::enrich`], one per thread.
#[derive(Debug, Default)]
pub struct FoldScratch<'a> {
    merged: Vec<KeySlot<'a>>,
    /// Place of a key in `merged`, plus 1; 0 when the key is not in `merged`.
    places: Vec<u32>,
    json: String,
}

impl<'a> Fold<'a> {
    /// Prepares `stamps` (in any order) for folding. Time and memory grow with the number of stamps and the logarithm of the
    /// number of ranges, not with the number of turns.
    pub fn new<'s>(stamps: impl Iterator<Item = &'s Stamp<'a>>) -> Self
    where
        'a: 's,
    {
        // Sorts references, because a stamp has over a hundred bytes and there may be millions of stamps.
        let mut stamps: Vec<&Stamp<'a>> = stamps.collect();
        stamps.sort_unstable_by(|a, b| (a.ts, a.offset).cmp(&(b.ts, b.offset)));
        let mut fold = Unfinished::default();
        for stamp in stamps {
            let entries = stamp.entries.iter();
            fold.add(stamp.selector, entries.map(|entry| (entry.key_json, entry.array_index, &entry.value)));
        }
        fold.finish()
    }

    /// Number of stamps.
    pub fn len(&self) -> usize {
        self.stamps
    }

    /// Whether there are no stamps.
    pub fn is_empty(&self) -> bool {
        self.stamps == 0
    }

    /// Folds the stamps that match a turn. The result is in `scratch` until the next call.
    pub fn enrich<'r>(
        &self,
        session: &str,
        message: &str,
        ts: &str,
        scratch: &'r mut FoldScratch<'a>,
    ) -> Enrichment<'r> {
        self.enrich_within(usize::MAX, session, message, ts, scratch).unwrap_or(NOTHING)
    }

    /// Does the same as [`enrich`](Self::enrich), but returns `None`, before any text is made, when the object has more than
    /// `max_bytes`.
    pub(crate) fn enrich_within<'r>(
        &self,
        max_bytes: usize,
        session: &str,
        message: &str,
        ts: &str,
        scratch: &'r mut FoldScratch<'a>,
    ) -> Option<Enrichment<'r>> {
        if self.stamps == 0 {
            return Some(NOTHING);
        }
        scratch.merged.clear();
        let groups = [
            Some(&self.everywhere),
            self.by_session.get(session),
            self.by_message.get(message),
            if self.by_both.is_empty() { None } else { self.by_both.get(&(session, message)) },
        ];
        for group in groups.into_iter().flatten() {
            merge(scratch, &group.open.slots, self.keys.len());
            for stamp in group.ranged.iter().filter(|stamp| stamp.matches(ts)) {
                merge(scratch, &stamp.slots, self.keys.len());
            }
            if let Some(tree) = &group.tree {
                tree.visit(ts, |summary| merge(scratch, &summary.slots, self.keys.len()));
            }
        }
        if scratch.merged.is_empty() {
            return Some(NOTHING);
        }
        let mut len_bytes = 1;
        for slot in &scratch.merged {
            scratch.places[slot.key as usize] = 0;
            // The separators before and after the key.
            len_bytes += 2 + self.keys[slot.key as usize].json.len() + slot.value.json.len();
        }
        if len_bytes > max_bytes {
            return None;
        }
        scratch.merged.sort_unstable_by_key(|slot| {
            // Array indices first, ascending; then the order of first assignment.
            match self.keys[slot.key as usize].array_index {
                Some(index) => (0u8, u64::from(index)),
                None => (1, slot.first),
            }
        });
        if scratch.json.capacity() > SCRATCH_KEEP_BYTES {
            scratch.json = String::new();
        }
        scratch.json.clear();
        scratch.json.reserve(len_bytes);
        let mut enrichment = Enrichment::default();
        let mut separator = '{';
        for slot in &scratch.merged {
            let key = &self.keys[slot.key as usize];
            // Writing to a String cannot fail.
            let _ = write!(scratch.json, "{separator}{}:{}", key.json, slot.value.json);
            separator = ',';
            if let Some(column) = key.column {
                enrichment.columns[column] = Some(slot.value.plain);
            }
        }
        scratch.json.push('}');
        enrichment.json = &scratch.json;
        Some(enrichment)
    }
}

/// A fold that is being built from stamps in the order of (`ts`, offset).
#[derive(Debug, Default)]
struct Unfinished<'a> {
    fold: Fold<'a>,
    key_ids: HashMap<&'a str, u32>,
    /// Slots of the stamp that is being added.
    slots: Vec<KeySlot<'a>>,
}

impl<'a> Unfinished<'a> {
    /// Adds a stamp. `entries` are keys as JSON, their numbers as array indices, and values.
    fn add(
        &mut self,
        selector: Selector<'a>,
        entries: impl Iterator<Item = (&'a str, Option<u32>, &'a Assigned<'a>)>,
    ) {
        let Self { fold, key_ids, slots } = self;
        let rank = fold.stamps as u64;
        fold.stamps += 1;
        slots.clear();
        for (place, (json, array_index, value)) in entries.enumerate() {
            let key = *key_ids.entry(json).or_insert_with(|| {
                let plain = json.strip_prefix('"').and_then(|json| json.strip_suffix('"'));
                let column = enrichment::FIELDS.iter().position(|field| Some(field.member) == plain);
                fold.keys.push(FoldKey { json, array_index, column });
                fold.keys.len() as u32 - 1
            });
            let order = rank << 32 | place as u64;
            slots.push(KeySlot { key, first: order, last: order, value });
        }
        let group = match (selector.session, selector.message) {
            (Some(session), Some(message)) => fold.by_both.entry((session, message)).or_default(),
            (Some(session), None) => fold.by_session.entry(session).or_default(),
            (None, Some(message)) => fold.by_message.entry(message).or_default(),
            (None, None) if selector.range.is_some() => &mut fold.everywhere,
            (None, None) => return,
        };
        match selector.range {
            Some(range) if range.from.is_some() || range.to.is_some() => {
                group.ranged.push(Ranged { range, slots: slots.clone() });
            }
            _ => group.open.assign(slots),
        }
    }

    fn finish(self) -> Fold<'a> {
        let mut fold = self.fold;
        let groups = std::iter::once(&mut fold.everywhere)
            .chain(fold.by_session.values_mut())
            .chain(fold.by_message.values_mut())
            .chain(fold.by_both.values_mut());
        for group in groups {
            group.open.put_in_order();
            if group.ranged.len() > RANGED_WITHOUT_TREE {
                group.tree = Some(Box::new(RangeTree::new(&std::mem::take(&mut group.ranged))));
            }
            group.ranged.shrink_to_fit();
        }
        fold
    }
}

/// Builds a [`Fold`] from stamps that are dropped after they are added: assignments are copied, and nothing else is kept of
/// stamps that later stamps override. For ledgers with too many stamps to be in memory at one time.
#[derive(Debug)]
pub struct Builder<'a> {
    arena: &'a Bump,
    unfinished: Unfinished<'a>,
}

impl<'a> Builder<'a> {
    /// A fold without stamps; its texts will be in `arena`.
    pub fn new(arena: &'a Bump) -> Self {
        Self { arena, unfinished: Unfinished::default() }
    }

    /// Adds a stamp. Stamps must come in the order of (`ts`, offset).
    pub fn add(&mut self, stamp: &Stamp<'_>) {
        let Self { arena, unfinished } = self;
        let keep = |text: &str| -> &'a str { arena.alloc_str(text) };
        let session = stamp.selector.session.map(|session| {
            unfinished
                .fold
                .by_session
                .get_key_value(session)
                .map_or_else(|| keep(session), |(known, _)| *known)
        });
        let entries: Vec<_> = stamp
            .entries
            .iter()
            .map(|entry| {
                let known = unfinished.key_ids.get_key_value(entry.key_json).map(|(known, _)| *known);
                let key = known.unwrap_or_else(|| keep(entry.key_json));
                (key, entry.array_index, &*arena.alloc(entry.value.copied(arena)))
            })
            .collect();
        let range = stamp
            .selector
            .range
            .map(|range| TimeRange { from: range.from.map(keep), to: range.to.map(keep) });
        let selector = Selector { session, message: stamp.selector.message.map(keep), range };
        unfinished.add(selector, entries.into_iter());
    }

    /// Returns the fold.
    pub fn finish(self) -> Fold<'a> {
        self.unfinished.finish()
    }
}

impl<'a> RangeTree<'a> {
    fn new(stamps: &[Ranged<'a>]) -> Self {
        let bounds = |stamp: &Ranged<'a>| {
            (stamp.range.from.map(|ts| (ts, false)), stamp.range.to.map(|ts| (ts, true)))
        };
        let mut cuts: Vec<(&str, bool)> = stamps
            .iter()
            .flat_map(|stamp| {
                let (from, to) = bounds(stamp);
                [from, to].into_iter().flatten()
            })
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        let leaves = cuts.len() + 1;
        let mut tree = RangeTree { cuts, nodes: vec![KeySummary::default(); 2 * leaves], leaves };
        for stamp in stamps {
            let (from, to) = bounds(stamp);
            let place = |cut: (&str, bool)| tree.cuts.partition_point(|&other| other < cut);
            // Interval i is between cut i-1 and cut i.
            let mut low = from.map_or(0, |cut| place(cut) + 1) + leaves;
            let mut high = to.map_or(leaves, |cut| place(cut) + 1) + leaves;
            while low < high {
                if low & 1 == 1 {
                    tree.nodes[low].assign(&stamp.slots);
                    low += 1;
                }
                if high & 1 == 1 {
                    high -= 1;
                    tree.nodes[high].assign(&stamp.slots);
                }
                low /= 2;
                high /= 2;
            }
        }
        tree.nodes.iter_mut().for_each(KeySummary::put_in_order);
        tree
    }

    fn visit(&self, ts: &str, mut f: impl FnMut(&KeySummary<'a>)) {
        let interval = self.cuts.partition_point(|&(cut, behind)| if behind { cut < ts } else { cut <= ts });
        let mut node = self.leaves + interval;
        while node >= 1 {
            f(&self.nodes[node]);
            node /= 2;
        }
    }
}

/// Merges a summary into the result so far. The order of summaries does not matter.
fn merge<'a>(scratch: &mut FoldScratch<'a>, slots: &[KeySlot<'a>], keys: usize) {
    if scratch.places.len() < keys {
        scratch.places.resize(keys, 0);
    }
    for slot in slots {
        let place = &mut scratch.places[slot.key as usize];
        if *place == 0 {
            scratch.merged.push(*slot);
            *place = scratch.merged.len() as u32;
            continue;
        }
        let found = &mut scratch.merged[*place as usize - 1];
        found.first = found.first.min(slot.first);
        if slot.last > found.last {
            *found = KeySlot { first: found.first, ..*slot };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    struct OwnedStamp {
        ts: String,
        session: Option<String>,
        message: Option<String>,
        range: Option<(Option<String>, Option<String>)>,
        entries: Vec<(String, String)>,
    }

    fn time() -> impl Strategy<Value = String> {
        (0u8..12).prop_map(|n| format!("t{n:02}"))
    }

    fn stamp() -> impl Strategy<Value = OwnedStamp> {
        let name = |prefix: &'static str| (0u8..3).prop_map(move |n| format!("{prefix}{n}"));
        let key = prop_oneof![
            Just("workflowId".to_string()),
            Just("tier".to_string()),
            (0u32..12).prop_map(|n| n.to_string()),
            Just("01".to_string()),
            (0u8..4).prop_map(|n| format!("k{n}")),
        ];
        (
            time(),
            proptest::option::of(name("s")),
            proptest::option::of(name("m")),
            proptest::option::of((proptest::option::of(time()), proptest::option::of(time()))),
            proptest::collection::btree_map(key, "[a-c]{0,2}", 0..4),
            any::<bool>(),
        )
            .prop_map(|(ts, session, message, range, entries, reverse)| {
                let mut entries: Vec<_> = entries.into_iter().collect();
                if reverse {
                    entries.reverse();
                }
                OwnedStamp { ts, session, message, range, entries }
            })
    }

    /// The plain rule: every stamp, in order, key by key.
    fn model(stamps: &[OwnedStamp], session: &str, message: &str, ts: &str) -> String {
        let mut order: Vec<usize> = (0..stamps.len()).collect();
        order.sort_by_key(|&i| (stamps[i].ts.clone(), i));
        let mut object: Vec<(String, String)> = Vec::new();
        for stamp in order.into_iter().map(|i| &stamps[i]) {
            let has_any = stamp.session.is_some() || stamp.message.is_some() || stamp.range.is_some();
            let in_range = stamp.range.as_ref().is_none_or(|(from, to)| {
                from.as_deref().is_none_or(|from| from <= ts) && to.as_deref().is_none_or(|to| ts <= to)
            });
            if !has_any
                || stamp.session.as_deref().is_some_and(|s| s != session)
                || stamp.message.as_deref().is_some_and(|m| m != message)
                || !in_range
            {
                continue;
            }
            for (key, value) in &stamp.entries {
                match object.iter_mut().find(|(k, _)| k == key) {
                    Some((_, v)) => v.clone_from(value),
                    None => object.push((key.clone(), value.clone())),
                }
            }
        }
        let index = |key: &str| key.parse::<u32>().ok().filter(|n| n.to_string() == key);
        object.sort_by_key(|(key, _)| index(key).map_or((1, 0), |n| (0, n)));
        let members: Vec<String> = object.iter().map(|(k, v)| format!("\"{k}\":\"{v}\"")).collect();
        format!("{{{}}}", members.join(","))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn folding_by_summaries_equals_the_plain_rule(
            // More stamps than a list may have, so that trees are built too.
            stamps in proptest::collection::vec(stamp(), 0..120),
            turns in proptest::collection::vec((0u8..4, 0u8..4, time()), 1..12),
        ) {
            let json: Vec<Vec<(String, String)>> = stamps
                .iter()
                .map(|s| s.entries.iter().map(|(k, v)| (format!("\"{k}\""), format!("\"{v}\""))).collect())
                .collect();
            let entries: Vec<Vec<Assignment<'_>>> = stamps
                .iter()
                .zip(&json)
                .map(|(stamp, json)| {
                    stamp.entries.iter().zip(json).map(|((key, value), (key_json, value_json))| Assignment {
                        key_json,
                        array_index: key.parse::<u32>().ok().filter(|n| n.to_string() == *key),
                        value: Assigned { json: value_json, plain: value },
                    }).collect()
                })
                .collect();
            let list: Vec<Stamp<'_>> = stamps.iter().enumerate().rev().map(|(i, stamp)| Stamp {
                ts: &stamp.ts,
                offset: i as u64,
                selector: Selector {
                    session: stamp.session.as_deref(),
                    message: stamp.message.as_deref(),
                    range: stamp.range.as_ref().map(|(from, to)| TimeRange {
                        from: from.as_deref(),
                        to: to.as_deref(),
                    }),
                },
                entries: &entries[i],
            }).collect();
            let arena = Bump::new();
            let mut builder = Builder::new(&arena);
            let mut ordered = list.clone();
            ordered.sort_by_key(|stamp| (stamp.ts, stamp.offset));
            ordered.iter().for_each(|stamp| builder.add(stamp));
            let built = builder.finish();
            let fold = Fold::new(list.iter());
            let mut scratch = FoldScratch::default();
            let mut other_scratch = FoldScratch::default();
            for (s, m, ts) in turns {
                let (session, message) = (format!("s{s}"), format!("m{m}"));
                let got = fold.enrich(&session, &message, &ts, &mut scratch);
                prop_assert_eq!(got.json, model(&stamps, &session, &message, &ts));
                prop_assert_eq!(got, built.enrich(&session, &message, &ts, &mut other_scratch));
            }
        }
    }
}
