//! Column chunks: the cells of a column in a row group as compressed pages, with what the footer says of them.
//!
//! Touches nothing. Guarantees: equal cells give equal bytes. A dictionary is used where it makes the column shorter.
//!
//! Rejected: the column writers of the crate `parquet`. For each column of each file they make two zstd contexts and a hash
//! table of 4,096 places, and they count references for each text: PERF.md has the figures.

use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashTable;
use parquet::basic::{Compression, Encoding, PageType, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescPtr;
use rustc_hash::FxBuildHasher;
use zstd::bulk::Compressor;

use super::columns::TextForm;
use super::encoding::{
    deltas, hybrid, lengths_and_bytes, plain_flags, plain_text, prefixes_and_rests, width_of, zigzag,
};
use super::row_group::{NO_TEXT, TextCells};

/// The level of zstd. Higher levels take more time than they save bytes.
const ZSTD_LEVEL: i32 = 1;
/// The rows of a page.
const PAGE_ROWS: usize = 16_384;
/// The most bytes of a minimum or maximum in the statistics.
const STATISTIC_MAX_BYTES: usize = 64;

/// A column chunk: its bytes, and its part of the footer.
pub(super) type ColumnChunk = (Bytes, ColumnCloseResult);

/// Makes column chunks; keeps its buffers.
pub(super) struct ChunkMaker {
    pages: PageMaker,
    /// For each row whether it has a value.
    levels: Vec<u32>,
    /// For each value its place in the dictionary.
    places: Vec<u32>,
    numbers: Vec<i64>,
    known_numbers: HashTable<u32>,
}

impl ChunkMaker {
    pub(super) fn new() -> Result<Self, ParquetError> {
        let zstd = Compressor::new(ZSTD_LEVEL)?;
        Ok(Self {
            pages: PageMaker {
                zstd,
                body: Vec::new(),
                compressed: Vec::new(),
                chunk: Vec::new(),
                uncompressed_bytes: 0,
                data_at: 0,
                encodings: Vec::new(),
            },
            levels: Vec::new(),
            places: Vec::new(),
            numbers: Vec::new(),
            known_numbers: HashTable::new(),
        })
    }

    /// The chunk of a column of texts.
    pub(super) fn texts(
        &mut self,
        column: &ColumnDescPtr,
        cells: &TextCells,
        texts: &[u8],
        form: TextForm,
        has_statistics: bool,
    ) -> Result<ColumnChunk, ParquetError> {
        let Self { pages, levels, places, .. } = self;
        levels.clear();
        levels.extend(cells.numbers.iter().map(|number| u32::from(*number != NO_TEXT)));
        // Numbers by the order of the rows, because the cells have numbers by the order in which they came.
        let (mut distinct, mut place_of) = (Vec::new(), vec![NO_TEXT; cells.spans.len()]);
        places.clear();
        for number in cells.numbers.iter().filter(|number| **number != NO_TEXT) {
            let place = &mut place_of[*number as usize];
            if *place == NO_TEXT {
                *place = distinct.len() as u32;
                distinct.push(cells.spans[*number as usize].of(texts));
            }
            places.push(*place);
        }
        let (distinct, places) = (&*distinct, &*places);
        let of = |range: Range<usize>| places[range].iter().map(|place| distinct[*place as usize]);
        let len_of = |text: &&[u8]| text.len() as u64 + 4;
        match form {
            TextForm::Unique => pages.data(levels, Encoding::DELTA_LENGTH_BYTE_ARRAY, |range, out| {
                lengths_and_bytes(of(range), out)
            })?,
            TextForm::Sorted => pages
                .data(levels, Encoding::DELTA_BYTE_ARRAY, |range, out| prefixes_and_rests(of(range), out))?,
            TextForm::Repeated => {
                let plain: u64 = of(0..places.len()).map(|text| len_of(&text)).sum();
                let dictionary: u64 = distinct.iter().map(len_of).sum();
                if is_shorter(dictionary, plain, distinct.len(), places.len()) {
                    pages.dictionary(distinct.len(), |out| {
                        distinct.iter().for_each(|text| plain_text(text, out))
                    })?;
                    pages.places(levels, places, distinct.len())?;
                } else {
                    pages.data(levels, Encoding::PLAIN, |range, out| {
                        of(range).for_each(|text| plain_text(text, out))
                    })?;
                }
            }
        }
        let statistics = has_statistics.then(|| {
            let bounds = [distinct.iter().min(), distinct.iter().max()];
            let is_short = bounds.iter().flatten().all(|text| text.len() <= STATISTIC_MAX_BYTES);
            let [min, max] = bounds.map(|text| text.map(|text| ByteArray::from(text.to_vec())));
            let nulls = (levels.len() - places.len()) as u64;
            is_short.then(|| Statistics::byte_array(min, max, None, Some(nulls), false))
        });
        pages.finish(column, levels.len(), statistics.flatten())
    }

    /// The chunk of a column that has one text in all rows and no level.
    pub(super) fn constant(
        &mut self,
        column: &ColumnDescPtr,
        text: &[u8],
        rows: usize,
    ) -> Result<ColumnChunk, ParquetError> {
        let Self { pages, places, .. } = self;
        places.clear();
        places.resize(rows, 0);
        pages.dictionary(1, |out| plain_text(text, out))?;
        pages.places(&[], places, 1)?;
        pages.finish(column, rows, None)
    }

    /// The chunk of a column of integers that repeat.
    pub(super) fn numbers(
        &mut self,
        column: &ColumnDescPtr,
        cells: &[Option<i64>],
    ) -> Result<ColumnChunk, ParquetError> {
        let Self { pages, levels, places, numbers, known_numbers } = self;
        split(cells, levels, numbers);
        places.clear();
        known_numbers.clear();
        let mut distinct: Vec<i64> = Vec::new();
        let hash = |number: i64| std::hash::BuildHasher::hash_one(&FxBuildHasher, number);
        for number in &*numbers {
            let is_same = |place: &u32| distinct[*place as usize] == *number;
            let found = known_numbers.entry(hash(*number), is_same, |place| hash(distinct[*place as usize]));
            places.push(match found {
                hashbrown::hash_table::Entry::Occupied(place) => *place.get(),
                hashbrown::hash_table::Entry::Vacant(free) => {
                    let place = distinct.len() as u32;
                    free.insert(place);
                    distinct.push(*number);
                    place
                }
            });
        }
        let plain = |numbers: &[i64], out: &mut Vec<u8>| {
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()))
        };
        let len_of = |numbers: &[i64]| size_of_val(numbers) as u64;
        if is_shorter(len_of(&distinct), len_of(numbers), distinct.len(), numbers.len()) {
            pages.dictionary(distinct.len(), |out| plain(&distinct, out))?;
            pages.places(levels, places, distinct.len())?;
        } else {
            pages.data(levels, Encoding::PLAIN, |range, out| plain(&numbers[range], out))?;
        }
        pages.finish(column, cells.len(), Some(of_numbers(numbers, cells.len())))
    }

    /// The chunk of a column of integers that grow.
    pub(super) fn growing(
        &mut self,
        column: &ColumnDescPtr,
        cells: &[Option<i64>],
    ) -> Result<ColumnChunk, ParquetError> {
        let Self { pages, levels, numbers, .. } = self;
        split(cells, levels, numbers);
        pages.data(levels, Encoding::DELTA_BINARY_PACKED, |range, out| deltas(&numbers[range], out))?;
        pages.finish(column, cells.len(), Some(of_numbers(numbers, cells.len())))
    }

    /// The chunk of a column of flags.
    pub(super) fn flags(
        &mut self,
        column: &ColumnDescPtr,
        cells: &[Option<bool>],
    ) -> Result<ColumnChunk, ParquetError> {
        let (mut flags, Self { pages, levels, .. }) = (Vec::new(), self);
        split(cells, levels, &mut flags);
        pages.data(levels, Encoding::PLAIN, |range, out| plain_flags(&flags[range], out))?;
        let nulls = (cells.len() - flags.len()) as u64;
        let (min, max) = (flags.iter().min().copied(), flags.iter().max().copied());
        pages.finish(column, cells.len(), Some(Statistics::boolean(min, max, None, Some(nulls), false)))
    }
}

fn of_numbers(numbers: &[i64], rows: usize) -> Statistics {
    let nulls = (rows - numbers.len()) as u64;
    Statistics::int64(numbers.iter().min().copied(), numbers.iter().max().copied(), None, Some(nulls), false)
}

/// Splits cells into the values that are there and the levels.
fn split<T: Copy>(cells: &[Option<T>], levels: &mut Vec<u32>, values: &mut Vec<T>) {
    levels.clear();
    levels.extend(cells.iter().map(|cell| u32::from(cell.is_some())));
    values.clear();
    values.extend(cells.iter().flatten());
}

/// Whether a dictionary of so many bytes, and the places of so many values in it, are shorter than the plain values.
fn is_shorter(dictionary: u64, plain: u64, distinct: usize, values: usize) -> bool {
    values > 0 && dictionary + values as u64 * u64::from(place_width(distinct)) / 8 < plain
}

/// The bits of a place in a dictionary.
fn place_width(distinct: usize) -> u32 {
    width_of(distinct.saturating_sub(1) as u64).max(1)
}

/// Makes the pages of one chunk after another.
struct PageMaker {
    zstd: Compressor<'static>,
    /// The page, before and after it is compressed.
    body: Vec<u8>,
    compressed: Vec<u8>,
    /// The pages with their headers.
    chunk: Vec<u8>,
    /// The bytes of the pages before they are compressed, and of their headers.
    uncompressed_bytes: usize,
    /// Where the first page with values begins.
    data_at: usize,
    encodings: Vec<Encoding>,
}

impl PageMaker {
    /// Adds the page of a dictionary.
    fn dictionary(&mut self, distinct: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), ParquetError> {
        fill(&mut self.body);
        self.page(PageType::DICTIONARY_PAGE, distinct, Encoding::PLAIN)?;
        self.data_at = self.chunk.len();
        Ok(())
    }

    /// Adds pages with the places of values in a dictionary. Without `levels`, each row has a value.
    fn places(&mut self, levels: &[u32], places: &[u32], distinct: usize) -> Result<(), ParquetError> {
        let width = place_width(distinct);
        let fill = |range: Range<usize>, out: &mut Vec<u8>| {
            out.push(width as u8);
            hybrid(&places[range], width, out);
        };
        if levels.is_empty() {
            return self.rows(&[], places.len(), Encoding::RLE_DICTIONARY, fill);
        }
        self.data(levels, Encoding::RLE_DICTIONARY, fill)
    }

    /// Adds the pages of a column that may lack values; `fill` gets a range of the values that are there.
    fn data(
        &mut self,
        levels: &[u32],
        encoding: Encoding,
        fill: impl FnMut(Range<usize>, &mut Vec<u8>),
    ) -> Result<(), ParquetError> {
        self.rows(levels, levels.len(), encoding, fill)
    }

    fn rows(
        &mut self,
        levels: &[u32],
        rows: usize,
        encoding: Encoding,
        mut fill: impl FnMut(Range<usize>, &mut Vec<u8>),
    ) -> Result<(), ParquetError> {
        let mut values = 0;
        for first in (0..rows).step_by(PAGE_ROWS) {
            let last = rows.min(first + PAGE_ROWS);
            let mut count = last - first;
            if !levels.is_empty() {
                let levels = &levels[first..last];
                count = levels.iter().sum::<u32>() as usize;
                self.body.extend_from_slice(&[0; 4]);
                hybrid(levels, 1, &mut self.body);
                let len_bytes = self.body.len() as u32 - 4;
                self.body[..4].copy_from_slice(&len_bytes.to_le_bytes());
            }
            fill(values..values + count, &mut self.body);
            values += count;
            self.page(PageType::DATA_PAGE, last - first, encoding)?;
        }
        Ok(())
    }

    /// Compresses the page and adds it.
    fn page(&mut self, kind: PageType, values: usize, encoding: Encoding) -> Result<(), ParquetError> {
        let Self { zstd, body, compressed, chunk, .. } = self;
        compressed.clear();
        compressed.reserve(zstd::zstd_safe::compress_bound(body.len()));
        zstd.compress_to_buffer(body, compressed)?;
        let header_at = chunk.len();
        header(kind, body.len(), compressed.len(), values, encoding, chunk);
        self.uncompressed_bytes += chunk.len() - header_at + body.len();
        chunk.extend_from_slice(compressed);
        body.clear();
        if !self.encodings.contains(&encoding) {
            self.encodings.push(encoding);
        }
        Ok(())
    }

    /// Ends the chunk of so many rows.
    fn finish(
        &mut self,
        column: &ColumnDescPtr,
        rows: usize,
        statistics: Option<Statistics>,
    ) -> Result<ColumnChunk, ParquetError> {
        let chunk = Bytes::from(self.chunk.as_slice().to_vec());
        let data_at = std::mem::take(&mut self.data_at);
        let mut encodings = std::mem::take(&mut self.encodings);
        encodings.push(Encoding::RLE);
        let mut metadata = ColumnChunkMetaData::builder(column.clone())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_encodings(encodings)
            .set_num_values(rows as i64)
            .set_total_compressed_size(chunk.len() as i64)
            .set_total_uncompressed_size(std::mem::take(&mut self.uncompressed_bytes) as i64)
            .set_data_page_offset(data_at as i64)
            .set_dictionary_page_offset((data_at > 0).then_some(0));
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        self.chunk.clear();
        let close = ColumnCloseResult {
            bytes_written: chunk.len() as u64,
            rows_written: rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok((chunk, close))
    }
}

/// Appends the header of a page: a `PageHeader` in Thrift's compact protocol. A field begins with the distance from the number
/// of the last field (high four bits) and its type (low four bits); 0 ends a struct.
fn header(
    kind: PageType,
    bytes: usize,
    compressed_bytes: usize,
    values: usize,
    encoding: Encoding,
    out: &mut Vec<u8>,
) {
    const NEXT_NUMBER: u8 = 0x15;
    const STRUCT: u8 = 0x0C;
    /// The numbers of `data_page_header` and `dictionary_page_header`, after `compressed_page_size`, which is 3.
    const DATA_AFTER: u8 = 5 - 3;
    const DICTIONARY_AFTER: u8 = 7 - 3;
    let number = |number: i64, out: &mut Vec<u8>| {
        out.push(NEXT_NUMBER);
        zigzag(number, out);
    };
    number(kind as i64, out);
    number(bytes as i64, out);
    number(compressed_bytes as i64, out);
    let is_dictionary = kind == PageType::DICTIONARY_PAGE;
    out.push((if is_dictionary { DICTIONARY_AFTER } else { DATA_AFTER }) << 4 | STRUCT);
    number(values as i64, out);
    number(encoding as i64, out);
    if !is_dictionary {
        // The encodings of definition and repetition levels.
        number(Encoding::RLE as i64, out);
        number(Encoding::RLE as i64, out);
    }
    out.extend_from_slice(&[0, 0]);
}
