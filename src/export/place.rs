//! Where exports lie: a directory, or a bucket of an object store and a prefix in it.
//!
//! Touches nothing but the names of directories. Guarantees: a place that is a file, or that is inside a home, is refused
//! before anything is written.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::directory::ExportDirectory;
use super::error::ExportError;
use super::store::ExportStore;
use crate::disk;
use crate::home::Home;
use crate::interrupt::Interrupt;

/// A place of exports. Reads and prints as a path, or as `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportPlace {
    /// A directory, which is created when it is missing.
    Directory(PathBuf),
    /// A bucket of an object store that speaks the S3 protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// The directory in the bucket, without `/` at its ends; empty for the bucket itself.
        prefix: String,
    },
}

impl FromStr for ExportPlace {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, ExportError> {
        let unknown = || ExportError::UnknownPlace { place: text.to_owned() };
        let Some((scheme, rest)) = text.split_once("://") else {
            // `s3:/bucket` is a slip and no directory. A single letter is a drive.
            let is_scheme = |(scheme, _): (&str, &str)| {
                scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
            };
            let is_place = !text.is_empty() && !text.split_once(":/").is_some_and(is_scheme);
            return if is_place { Ok(Self::Directory(text.into())) } else { Err(unknown()) };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        // `=` would make a column of a directory, and other characters are escaped in keys.
        let is_plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let is_prefix = prefix.is_empty() || prefix.split('/').all(is_plain);
        let is_bucket = is_plain(bucket);
        if scheme != "s3" || !is_bucket || !is_prefix {
            return Err(unknown());
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for ExportPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl ExportPlace {
    /// Opens the place for an export of `home`.
    pub(super) fn open_for(
        &self,
        home: &Home,
        interrupt: &Interrupt,
    ) -> Result<Box<dyn ExportStore>, ExportError> {
        if let Self::Directory(path) = self {
            refuse_inside(path, home)?;
            if std::fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
                return Err(ExportError::NotADirectory { path: path.clone() });
            }
        }
        self.open(interrupt)
    }

    /// Opens a place that has exports.
    pub(super) fn open_existing(&self, interrupt: &Interrupt) -> Result<Box<dyn ExportStore>, ExportError> {
        if let Self::Directory(path) = self
            && disk::if_there(disk::metadata_of_target(&path.join(super::layout::ROOT)))?.is_none()
        {
            return Err(ExportError::NoExports { place: self.to_string() });
        }
        self.open(interrupt)
    }

    fn open(&self, interrupt: &Interrupt) -> Result<Box<dyn ExportStore>, ExportError> {
        match self {
            Self::Directory(path) => Ok(Box::new(ExportDirectory::new(path.clone(), interrupt.clone()))),
            #[cfg(feature = "s3")]
            Self::S3 { bucket, prefix } => {
                Ok(Box::new(super::s3::ExportBucket::open(bucket, prefix, interrupt.clone())?))
            }
            #[cfg(not(feature = "s3"))]
            Self::S3 { .. } => Err(ExportError::WithoutS3 { place: self.to_string() }),
        }
    }
}

/// Refuses a directory inside the home, and a directory that the home is inside.
fn refuse_inside(path: &Path, home: &Home) -> Result<(), ExportError> {
    let (place, root) = (resolved(path), resolved(home.root()));
    if place.starts_with(&root) || root.starts_with(&place) {
        return Err(ExportError::InsideHome { place: path.to_owned(), home: home.root().to_owned() });
    }
    Ok(())
}

/// The absolute path with the links of the part that exists resolved.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let canonical = |ancestor: &Path| Some((std::fs::canonicalize(ancestor).ok()?, ancestor.to_owned()));
    let Some((mut real, existing)) = absolute.ancestors().find_map(canonical) else { return absolute };
    // What does not exist is no link, so `..` after it leads back.
    for part in absolute.strip_prefix(existing).into_iter().flat_map(Path::components) {
        match part {
            Component::ParentDir => drop(real.pop()),
            part => real.push(part),
        }
    }
    real
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_a_bucket() {
        let place = |text: &str| text.parse::<ExportPlace>();
        for (text, printed) in [
            ("s3://b", "s3://b"),
            ("s3://b/", "s3://b"),
            ("s3://my.bucket-1/a/b/", "s3://my.bucket-1/a/b"),
            ("exports", "exports"),
            ("/a/s3:/b", "/a/s3:/b"),
        ] {
            assert_eq!(place(text).unwrap().to_string(), printed);
        }
        for text in [
            "",
            "s3://",
            "s3:///a",
            "s3://b/../c",
            "s3://b//c",
            "S3://b",
            "gs://b/c",
            "http://h/b",
            "s3://b c",
            "s3://b/x=1",
            "s3:/b/x",
        ] {
            assert!(matches!(place(text), Err(ExportError::UnknownPlace { .. })), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_place_inside_the_home_is_refused_under_every_name() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path().join("home"));
        std::fs::create_dir_all(home.root().join("below")).unwrap();
        std::os::unix::fs::symlink(home.root(), directory.path().join("link")).unwrap();
        let refused = |path: &str| refuse_inside(&directory.path().join(path), &home).is_err();
        for path in ["home", "home/below", "home/new/deep", "link/new", "link", ".", "other/../home/x"] {
            assert!(refused(path), "{path}");
        }
        assert!(!refused("home-exports") && !refused("other/home"));
    }
}
