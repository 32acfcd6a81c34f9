//! The names of files in a place of exports, as paths with `/` from the place. Touches nothing.
//!
//! ```text
//! v1/turns/dt=2026-04-20/<home id>-<generation>-<hash16>.parquet
//! v1/_manifests/<home id>-<generation>.json
//! ```
//!
//! A home id may have `-`; a generation and a hash have none, so a name is taken apart from its end. No name has `=` besides
//! the one of `dt=`, because engines take what is before it for a column.

use std::fmt;

use super::columns::ExportTable;
use super::day::ExportDay;

/// The directory of all files of this layout.
pub(super) const ROOT: &str = "v1";
/// The directory of the manifests.
pub(super) const MANIFESTS: &str = "v1/_manifests";
/// The hex digits of a file's BLAKE3 in its name.
pub(super) const HASH16_LEN: usize = 16;
/// The version of the manifest.
pub const MANIFEST_FORMAT: u32 = 1;
/// The most bytes of a home id.
pub const HOME_ID_MAX_BYTES: usize = 64;

/// The id of a home in paths and rows: letters, digits, `.`, `_` and `-`, the first a letter or a digit, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HomeId(String);

/// A text that is no [`HomeId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "home id {id:?} cannot be part of a path: it must start with a letter or digit, go on with letters, digits, '.', '_' or \
     '-', and have at most {HOME_ID_MAX_BYTES} characters"
)]
pub struct InvalidHomeId {
    /// The refused text.
    pub id: String,
}

impl HomeId {
    /// Makes a random id of 16 hex digits.
    pub(super) fn random() -> Self {
        let mut id = uuid::Uuid::new_v4().simple().to_string();
        id.truncate(16);
        Self(id)
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HomeId {
    type Error = InvalidHomeId;

    fn try_from(id: String) -> Result<Self, InvalidHomeId> {
        let starts_well = id.starts_with(|first: char| first.is_ascii_alphanumeric());
        let goes_on_well = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if starts_well && goes_on_well && id.len() <= HOME_ID_MAX_BYTES {
            Ok(Self(id))
        } else {
            Err(InvalidHomeId { id })
        }
    }
}

impl std::str::FromStr for HomeId {
    type Err = InvalidHomeId;

    fn from_str(id: &str) -> Result<Self, InvalidHomeId> {
        id.to_owned().try_into()
    }
}

impl From<HomeId> for String {
    fn from(id: HomeId) -> Self {
        id.0
    }
}

impl fmt::Display for HomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text may be a generation: letters and digits, at most 64.
pub(super) fn is_generation(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The path of a data file.
pub(super) fn data_path(
    table: ExportTable,
    day: ExportDay,
    home_id: &HomeId,
    generation: &str,
    blake3: &str,
) -> String {
    let hash = &blake3[..HASH16_LEN.min(blake3.len())];
    format!("{}/dt={day}/{home_id}-{generation}-{hash}.parquet", directory(table))
}

/// The directory of a table's files.
pub(super) fn directory(table: ExportTable) -> String {
    format!("{ROOT}/{}", table.as_str())
}

/// The path of a manifest.
pub(super) fn manifest_path(home_id: &HomeId, generation: &str) -> String {
    format!("{MANIFESTS}/{home_id}-{generation}.json")
}

/// The home id and the generation in the path of a data file of this layout; `None` for any other path.
pub(super) fn owner_of_data(path: &str) -> Option<(HomeId, &str)> {
    let (directory, name) = path.rsplit_once('/')?;
    let (parent, day) = directory.rsplit_once('/')?;
    let is_ours = ExportTable::ALL.into_iter().any(|table| self::directory(table) == parent)
        && day.strip_prefix("dt=").is_some_and(|day| day.parse::<ExportDay>().is_ok());
    let (owner, hash) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
    let is_hash = hash.len() == HASH16_LEN && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_ours && is_hash).then(|| owner_of(owner))?
}

/// The home id and the generation in the path of a manifest; `None` for any other path.
pub(super) fn owner_of_manifest(path: &str) -> Option<(HomeId, &str)> {
    owner_of(path.strip_prefix(MANIFESTS)?.strip_prefix('/')?.strip_suffix(".json")?)
}

/// The home id and the generation in the path of a temporary file, which an export that was killed left in a directory.
pub(super) fn leftover_of(path: &str) -> Option<(HomeId, &str)> {
    let (replaced, token) = path.strip_suffix(".tmp")?.rsplit_once('.')?;
    let is_token = token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_token.then(|| owner_of_data(replaced).or_else(|| owner_of_manifest(replaced)))?
}

fn owner_of(name: &str) -> Option<(HomeId, &str)> {
    let (home_id, generation) = name.rsplit_once('-')?;
    Some((home_id.parse().ok()?, Some(generation).filter(|text| is_generation(text))?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_that_could_leave_its_directory_or_look_like_a_column_is_refused() {
        let long = "a".repeat(65);
        for id in ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-a", "a=b", "a b", "a\n", "é", &long] {
            let refused = id.parse::<HomeId>().unwrap_err();
            assert!(refused.to_string().contains("cannot be part of a path"), "{id}");
        }
        for id in ["a", "7f", "team-a.laptop_3", &long[..64], HomeId::random().as_str()] {
            assert_eq!(id.parse::<HomeId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn a_name_of_another_form_has_no_owner() {
        let hash = "0123456789abcdef";
        for path in [
            format!("v1/turns/dt=2026-04-20/a-g-{hash}.parquet.tmp"),
            format!("v1/turns/dt=2026-04-20/a-{hash}.parquet"),
            format!("v1/turns/dt=2026-04-31/a-g-{hash}.parquet"),
            format!("v1/turns/2026-04-20/a-g-{hash}.parquet"),
            format!("v1/sessions/dt=2026-04-20/a-g-{hash}.parquet"),
            format!("v2/turns/dt=2026-04-20/a-g-{hash}.parquet"),
            "v1/turns/dt=2026-04-20/a-g-0123.parquet".to_owned(),
        ] {
            assert_eq!(owner_of_data(&path), None, "{path}");
        }
        for path in ["v1/_manifests/a.json", "v1/_manifests/x/a-g.json", "v1/_manifests/a-g.lock", "a-g.json"]
        {
            assert_eq!(owner_of_manifest(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_has_its_owner(id in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}", generation in "[A-Za-z0-9]{1,64}", day in -700_000..2_900_000_i64) {
            let home_id: HomeId = id.parse().unwrap();
            let blake3 = blake3::hash(id.as_bytes()).to_hex();
            let day = if day % 7 == 0 { ExportDay::Unknown } else { ExportDay::Utc(day) };
            for table in ExportTable::ALL {
                let path = data_path(table, day, &home_id, &generation, &blake3);
                prop_assert_eq!(owner_of_data(&path), Some((home_id.clone(), generation.as_str())));
            }
            let leftover = format!("{}.{}.tmp", data_path(ExportTable::Turns, day, &home_id, &generation, &blake3), "0a".repeat(16));
            prop_assert_eq!(leftover_of(&leftover), Some((home_id.clone(), generation.as_str())));
            prop_assert_eq!(owner_of_data(&leftover), None);
            let path = manifest_path(&home_id, &generation);
            prop_assert_eq!(owner_of_manifest(&path), Some((home_id.clone(), generation.as_str())));
        }
    }
}
