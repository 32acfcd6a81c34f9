//! Interior pages, page 1 and the schema table: what makes a database of leaf pages. Writes through the target.

use super::file::Target;
use super::page::{Filler, Kind};
use super::record::{header_len, push_body, push_type, push_varint};
use super::schema::{Schema, Tree};
use super::table::Leaves;
use super::{Options, Result, Value};

/// The database header at the start of page 1.
const HEADER_LEN: usize = 100;
/// Equal in both places of the header: the page count in it is to be believed.
const CHANGE_COUNTER: u32 = 1;
/// The one that knows the integers 0 and 1 as serial types.
const SCHEMA_FORMAT: u32 = 4;
const ENCODING_UTF8: u32 = 1;

/// The cells that divide the children of interior pages: everything of a cell but the child, one after another.
#[derive(Debug, Default)]
pub(super) struct Dividers {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Dividers {
    pub fn push(&mut self, cell: &[u8]) {
        self.bytes.extend_from_slice(cell);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.bytes[start..self.ends[place]]
    }
}

/// Builds the interior pages over two or more `children`, between any two of which there is a divider, and returns the
/// root. It is page 1 when `is_schema`.
fn write_interior(
    target: &mut Target,
    kind: Kind,
    mut children: Vec<u32>,
    dividers: &Dividers,
    is_schema: bool,
) -> Result<u32> {
    let header = if is_schema { HEADER_LEN } else { 0 };
    let mut between: Vec<usize> = (0..children.len() - 1).collect();
    let mut image = vec![0; target.page_size];
    let mut write = |target: &Target, page, header, children: &[u32], between: &[usize]| {
        image.fill(0);
        let mut filler = Filler::new(kind, image.len(), header);
        for (child, place) in children.iter().zip(between) {
            let divider = dividers.get(*place);
            let (_, cell) = filler.add(&mut image, 4 + divider.len());
            cell[..4].copy_from_slice(&child.to_be_bytes());
            cell[4..].copy_from_slice(divider);
        }
        filler.finish(&mut image, children.last().copied());
        target.write(page, &image)
    };
    loop {
        let used = between.iter().fold(header + 12, |used, place| used + 6 + dividers.get(*place).len());
        if used <= target.page_size {
            let root = if is_schema { 1 } else { target.allocate()? };
            write(target, root, header, &children, &between)?;
            return Ok(root);
        }
        let (mut above, mut above_between) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < children.len() {
            let mut to = from;
            let mut used = 12;
            while to < between.len() && used + 6 + dividers.get(between[to]).len() <= target.page_size {
                used += 6 + dividers.get(between[to]).len();
                to += 1;
            }
            // Neither may a page have a single child, nor the schema's page 1, whose header takes room.
            if from == 0 && to == between.len() {
                to /= 2;
            } else if to + 1 == between.len() {
                to -= 1;
            }
            let page = target.allocate()?;
            write(target, page, 0, &children[from..=to], &between[from..to])?;
            above.push(page);
            above_between.extend(between.get(to));
            from = to + 1;
        }
        (children, between) = (above, above_between);
    }
}

/// Completes a tree over its leaf pages and returns its root; an empty leaf when there are none.
pub(super) fn write_root(
    target: &mut Target,
    leaf: Kind,
    leaves: Vec<u32>,
    dividers: &Dividers,
) -> Result<u32> {
    match leaves[..] {
        [] => {
            let page = target.allocate()?;
            let mut image = vec![0; target.page_size];
            Filler::new(leaf, target.page_size, 0).finish(&mut image, None);
            target.write(page, &image)?;
            Ok(page)
        }
        [page] => Ok(page),
        _ => write_interior(target, leaf.parent(), leaves, dividers, false),
    }
}

/// Writes the schema table, its root on page 1.
pub(super) fn write_schema(target: &mut Target, schema: &Schema, root: impl Fn(Tree) -> u32) -> Result<()> {
    let mut rows = Leaves::new(HEADER_LEN);
    for entry in &schema.entries {
        let values = [
            Value::from(&*entry.kind),
            Value::from(&*entry.name),
            Value::from(&*entry.table_name),
            Value::Int(i64::from(root(entry.tree))),
            Value::from(entry.sql.as_deref()),
        ];
        let mut types = Vec::new();
        values.iter().for_each(|value| push_type(&mut types, *value));
        let mut record = Vec::new();
        push_varint(&mut record, header_len(types.len()));
        record.extend_from_slice(&types);
        values.iter().for_each(|value| push_body(&mut record, *value));
        rows.append(target, &record)?;
    }
    if let Some(mut image) = rows.single_page(target.page_size) {
        let pointers_end = 8 + 2 * schema.entries.len();
        image.copy_within(..pointers_end, HEADER_LEN);
        return target.write(1, &image);
    }
    let leaves = rows.into_pages(target)?;
    let (pages, dividers) = leaves.tree();
    write_interior(target, Kind::TableInterior, pages, &dividers, true)?;
    Ok(())
}

/// Writes the database header ("Database File Format", 1.3). Everything else must have been written: it counts pages.
pub(super) fn write_header(target: &mut Target, schema: &Schema, options: &Options) -> Result<()> {
    let freelist_pages = target.freed.len() as u32;
    let freelist = target.write_freelist()?;
    let mut header = [0; HEADER_LEN];
    header[..16].copy_from_slice(b"SQLite format 3\0");
    header[16..18].copy_from_slice(&(target.page_size as u16).to_be_bytes());
    header[18..20].fill(if options.wal { 2 } else { 1 });
    header[21..24].copy_from_slice(&[64, 32, 32]);
    let numbers = [
        (24, CHANGE_COUNTER),
        (28, target.pages),
        (32, freelist),
        (36, freelist_pages),
        (40, schema.cookie),
        (44, SCHEMA_FORMAT),
        (56, ENCODING_UTF8),
        (60, options.user_version as u32),
        (92, CHANGE_COUNTER),
        (96, rusqlite::version_number() as u32),
    ];
    for (at, number) in numbers {
        header[at..at + 4].copy_from_slice(&number.to_be_bytes());
    }
    target.write(1, &header)
}
