//! One Parquet file: its schema, its encodings, its row groups.
//!
//! Touches the spool alone. Guarantees: the same rows give the same bytes. Nothing in the file depends on the time, on the
//! machine or on the version of this program.
//!
//! Numbers, flags and constants are not compressed: zstd would save 2 % of the bytes, but needs two contexts for each column
//! of a file. Numbers have no dictionary, because most dictionaries of token counts are longer than the packed numbers.
//!
//! Rejected: the Arrow writer, whose crates double the time of a build; rows that come one by one gain nothing from Arrow
//! arrays. Higher levels of zstd, which cost more time than the bytes are worth.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::{
    Compression, ConvertedType, Encoding, LogicalType, Repetition, TimeUnit, Type, ZstdLevel,
};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type as SchemaType};

use super::columns::{ColumnKind, ExportColumn};
use super::error::ExportError;
use super::row_group::{ColumnCells, RowGroup};
use super::spool::FileSpool;

/// What a file says about its writer. Without a version, because a new version must not change the bytes of old days. The
/// form is the one that readers parse.
const CREATED_BY: &str = "relayburn-ledger version 1 (build 1)";
/// The level of zstd.
const ZSTD_LEVEL: i32 = 1;
/// The bytes of a minimum or maximum in the statistics.
const STATISTIC_MAX_BYTES: usize = 64;

/// The columns that every file has after the columns of the archive.
pub(super) const HOME_ID: &str = "home_id";
pub(super) const GENERATION: &str = "generation";
pub(super) const TS_US: &str = "ts_us";

/// Texts that hardly repeat, of similar lengths: a dictionary would be as long as the column.
const UNIQUE_TEXTS: [&str; 5] =
    ["message_id", "tool_use_id", "args_hash", "content_hash", "preceding_message_id"];
/// Texts with a minimum and a maximum in the statistics. Queries look for ranges of these; a random id is in every range.
const TEXTS_WITH_STATISTICS: [&str; 4] = ["ts", "source", "model", "tool_name"];
/// Texts that begin as the text before them.
const SORTED_TEXTS: [&str; 1] = ["ts"];

/// What all files of a table have in common.
pub(super) struct FileFormat {
    pub columns: Vec<ExportColumn>,
    schema: Arc<SchemaType>,
    properties: Arc<WriterProperties>,
    home_id: ByteArray,
    generation: ByteArray,
}

impl FileFormat {
    pub(super) fn new(
        columns: Vec<ExportColumn>,
        home_id: &str,
        generation: &str,
    ) -> Result<Self, ExportError> {
        let schema = Arc::new(schema(&columns).map_err(unwritable)?);
        let properties = Arc::new(properties(&columns).map_err(unwritable)?);
        let text = |text: &str| ByteArray::from(text.as_bytes().to_vec());
        Ok(Self { columns, schema, properties, home_id: text(home_id), generation: text(generation) })
    }
}

fn unwritable(error: ParquetError) -> ExportError {
    ExportError::Unwritable { reason: error.to_string() }
}

fn schema(columns: &[ExportColumn]) -> Result<SchemaType, ParquetError> {
    let column = |name: &str, repetition: Repetition, physical: Type, logical: Option<LogicalType>| {
        SchemaType::primitive_type_builder(name, physical)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .with_converted_type(ConvertedType::NONE)
            .build()
            .map(Arc::new)
    };
    let text = |name: &str, repetition| column(name, repetition, Type::BYTE_ARRAY, Some(LogicalType::String));
    let mut fields = Vec::new();
    for of_archive in columns {
        // Every column may be null, because a column that another program wrote may hold any type.
        let optional = Repetition::OPTIONAL;
        fields.push(match of_archive.kind {
            ColumnKind::Text => text(of_archive.name, optional)?,
            ColumnKind::Number => column(of_archive.name, optional, Type::INT64, None)?,
            ColumnKind::Flag => column(of_archive.name, optional, Type::BOOLEAN, None)?,
        });
    }
    fields.push(text(HOME_ID, Repetition::REQUIRED)?);
    fields.push(text(GENERATION, Repetition::REQUIRED)?);
    let utc_us = LogicalType::timestamp(true, TimeUnit::MICROS);
    fields.push(column(TS_US, Repetition::OPTIONAL, Type::INT64, Some(utc_us))?);
    SchemaType::group_type_builder("schema").with_fields(fields).build()
}

fn properties(columns: &[ExportColumn]) -> Result<WriterProperties, ParquetError> {
    let mut builder = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(STATISTIC_MAX_BYTES))
        .set_offset_index_disabled(true);
    let encodings = columns
        .iter()
        .filter_map(|column| Some((column.name, encoding_without_dictionary(column)?)))
        .chain([(TS_US, Encoding::DELTA_BINARY_PACKED)]);
    for (name, encoding) in encodings {
        let path = ColumnPath::from(name);
        builder =
            builder.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, encoding);
    }
    let are_short = columns.iter().filter(|column| column.kind != ColumnKind::Text);
    for name in are_short.map(|column| column.name).chain([HOME_ID, GENERATION, TS_US]) {
        builder = builder.set_column_compression(ColumnPath::from(name), Compression::UNCOMPRESSED);
    }
    let is_without = |column: &&ExportColumn| {
        column.kind == ColumnKind::Text && !TEXTS_WITH_STATISTICS.contains(&column.name)
    };
    for name in columns.iter().filter(is_without).map(|column| column.name).chain([HOME_ID, GENERATION]) {
        builder = builder.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::None);
    }
    Ok(builder.build())
}

/// The encoding of a column that has no dictionary.
fn encoding_without_dictionary(column: &ExportColumn) -> Option<Encoding> {
    match column.kind {
        ColumnKind::Text if UNIQUE_TEXTS.contains(&column.name) => Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
        ColumnKind::Text if SORTED_TEXTS.contains(&column.name) => Some(Encoding::DELTA_BYTE_ARRAY),
        ColumnKind::Text => None,
        ColumnKind::Number => Some(Encoding::DELTA_BINARY_PACKED),
        ColumnKind::Flag => Some(Encoding::PLAIN),
    }
}

/// A file that is being written.
pub(super) struct DayFile<'h> {
    pub group: RowGroup,
    writer: SerializedFileWriter<FileSpool<'h>>,
    directory: &'h Path,
    rows: u64,
    lossy: u64,
}

/// A file that was written.
pub(super) struct MadeFile<'h> {
    pub content: FileSpool<'h>,
    pub rows: u64,
    /// Number of cells whose value changed.
    pub lossy: u64,
}

impl<'h> DayFile<'h> {
    /// Begins a file with an empty row group; the bytes are spooled in `directory`.
    pub(super) fn new(
        format: &FileFormat,
        group: RowGroup,
        directory: &'h Path,
    ) -> Result<Self, ExportError> {
        let (schema, properties) = (Arc::clone(&format.schema), Arc::clone(&format.properties));
        let writer =
            SerializedFileWriter::new(FileSpool::new(directory), schema, properties).map_err(unwritable)?;
        Ok(Self { group, writer, directory, rows: 0, lossy: 0 })
    }

    /// Writes the rows of [`DayFile::group`] as a row group.
    pub(super) fn write_group(
        &mut self,
        format: &FileFormat,
        buffers: &mut ColumnBuffers,
    ) -> Result<(), ExportError> {
        self.rows += self.group.len() as u64;
        self.lossy += std::mem::take(&mut self.group.lossy);
        let written = write_group(&mut self.writer, format, &mut self.group, buffers);
        written.map_err(|error| self.failure(error))
    }

    /// Writes what is left and the footer. Also returns the row group, which is empty again.
    pub(super) fn finish(
        mut self,
        format: &FileFormat,
        buffers: &mut ColumnBuffers,
    ) -> Result<(MadeFile<'h>, RowGroup), ExportError> {
        if self.group.len() > 0 {
            self.write_group(format, buffers)?;
        }
        if let Err(error) = self.writer.finish() {
            return Err(self.failure(error));
        }
        // `into_inner` would write a second footer.
        let content = std::mem::replace(self.writer.inner_mut(), FileSpool::new(self.directory));
        Ok((MadeFile { content, rows: self.rows, lossy: self.lossy }, self.group))
    }

    /// The error of the spool, if it made the writer fail.
    fn failure(&mut self, error: ParquetError) -> ExportError {
        self.writer.inner_mut().take_failure().map_or_else(|| unwritable(error), ExportError::Disk)
    }
}

/// Buffers for the values of a column and for the definition levels.
#[derive(Default)]
pub(super) struct ColumnBuffers {
    texts: Vec<ByteArray>,
    numbers: Vec<i64>,
    flags: Vec<bool>,
    levels: Vec<i16>,
    /// The constants of all rows of the largest row group, because each text counts its uses.
    home_ids: Vec<ByteArray>,
    generations: Vec<ByteArray>,
}

fn write_group(
    writer: &mut SerializedFileWriter<FileSpool<'_>>,
    format: &FileFormat,
    group: &mut RowGroup,
    buffers: &mut ColumnBuffers,
) -> Result<(), ParquetError> {
    let rows = group.len();
    let texts_capacity = group.texts.capacity();
    let texts = ByteArray::from(std::mem::take(&mut group.texts));
    let mut row_group = writer.next_row_group()?;
    for cells in &group.cells {
        buffers.levels.clear();
        match cells {
            ColumnCells::Text(cells) => {
                buffers.texts.clear();
                for cell in cells {
                    buffers.levels.push(i16::from(cell.is_some()));
                    if let Some(span) = cell {
                        buffers
                            .texts
                            .push(texts.slice(span.start as usize, (span.end - span.start) as usize));
                    }
                }
                write_column::<ByteArrayType>(&mut row_group, &buffers.texts, Some(&buffers.levels))?;
            }
            ColumnCells::Number(cells) => {
                dense(cells, &mut buffers.numbers, &mut buffers.levels);
                write_column::<Int64Type>(&mut row_group, &buffers.numbers, Some(&buffers.levels))?;
            }
            ColumnCells::Flag(cells) => {
                dense(cells, &mut buffers.flags, &mut buffers.levels);
                write_column::<BoolType>(&mut row_group, &buffers.flags, Some(&buffers.levels))?;
            }
        }
    }
    buffers.texts.clear();
    for (constant, of_rows) in
        [(&format.home_id, &mut buffers.home_ids), (&format.generation, &mut buffers.generations)]
    {
        if of_rows.len() < rows {
            of_rows.resize(rows, constant.clone());
        }
        write_column::<ByteArrayType>(&mut row_group, &of_rows[..rows], None)?;
    }
    buffers.levels.clear();
    dense(&group.ts_us, &mut buffers.numbers, &mut buffers.levels);
    write_column::<Int64Type>(&mut row_group, &buffers.numbers, Some(&buffers.levels))?;
    row_group.close()?;
    group.clear();
    group.texts.reserve(texts_capacity);
    Ok(())
}

/// Splits cells into the values that are there and the definition levels.
fn dense<T: Copy>(cells: &[Option<T>], values: &mut Vec<T>, levels: &mut Vec<i16>) {
    values.clear();
    values.extend(cells.iter().flatten());
    levels.extend(cells.iter().map(|cell| i16::from(cell.is_some())));
}

fn write_column<T: parquet::data_type::DataType>(
    row_group: &mut SerializedRowGroupWriter<'_, FileSpool<'_>>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = row_group.next_column()? else {
        return Err(ParquetError::General("the schema has too few columns".to_owned()));
    };
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}
