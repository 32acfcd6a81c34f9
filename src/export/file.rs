//! One Parquet file: its schema, its encodings, its row groups.
//!
//! Touches the spool alone. Guarantees: the same rows give the same bytes. Nothing in the file depends on the time, on the
//! machine or on the version of this program.
//!
//! Rejected: the Arrow writer, because its crates double the time of a build, and rows that come one by one gain nothing from
//! Arrow arrays.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{SchemaDescriptor, Type as SchemaType};

use super::chunk::ChunkMaker;
use super::columns::{ColumnKind, ExportColumn};
use super::error::ExportError;
use super::row_group::{ColumnCells, RowGroup};
use super::spool::FileSpool;

/// What a file says about its writer. Without a version, because a new version must not change the bytes of old days. The
/// form is the one that readers parse.
const CREATED_BY: &str = "relayburn-ledger version 1 (build 1)";
/// The columns that every file has after the columns of the archive.
pub(super) const HOME_ID: &str = "home_id";
pub(super) const GENERATION: &str = "generation";
pub(super) const TS_US: &str = "ts_us";

/// What all files of a table have in common.
pub(super) struct FileFormat {
    pub columns: Vec<ExportColumn>,
    schema: Arc<SchemaType>,
    /// The columns of the schema.
    descriptor: SchemaDescriptor,
    properties: Arc<WriterProperties>,
    home_id: String,
    generation: String,
}

impl FileFormat {
    pub(super) fn new(
        columns: Vec<ExportColumn>,
        home_id: &str,
        generation: &str,
    ) -> Result<Self, ExportError> {
        let schema = Arc::new(schema(&columns).map_err(unwritable)?);
        let properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_offset_index_disabled(true);
        Ok(Self {
            columns,
            descriptor: SchemaDescriptor::new(Arc::clone(&schema)),
            schema,
            properties: Arc::new(properties.build()),
            home_id: home_id.to_owned(),
            generation: generation.to_owned(),
        })
    }
}

pub(super) fn unwritable(error: ParquetError) -> ExportError {
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
        chunks: &mut ChunkMaker,
    ) -> Result<(), ExportError> {
        self.rows += self.group.len() as u64;
        self.lossy += std::mem::take(&mut self.group.lossy);
        let written = write_group(&mut self.writer, format, &self.group, chunks);
        self.group.clear();
        written.map_err(|error| self.failure(error))
    }

    /// Writes what is left and the footer. Also returns the row group, which is empty again.
    pub(super) fn finish(
        mut self,
        format: &FileFormat,
        chunks: &mut ChunkMaker,
    ) -> Result<(MadeFile<'h>, RowGroup), ExportError> {
        if self.group.len() > 0 {
            self.write_group(format, chunks)?;
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

fn write_group(
    writer: &mut SerializedFileWriter<FileSpool<'_>>,
    format: &FileFormat,
    group: &RowGroup,
    chunks: &mut ChunkMaker,
) -> Result<(), ParquetError> {
    let mut row_group = writer.next_row_group()?;
    let mut descriptors = format.descriptor.columns().iter();
    let mut next = || {
        descriptors.next().ok_or_else(|| ParquetError::General("the schema has too few columns".to_owned()))
    };
    for (column, cells) in format.columns.iter().zip(&group.cells) {
        let (bytes, close) = match cells {
            ColumnCells::Text(cells) => chunks.texts(
                next()?,
                cells,
                &group.texts,
                column.text_form(),
                column.has_text_statistics(),
            )?,
            ColumnCells::Number(cells) => chunks.numbers(next()?, cells)?,
            ColumnCells::Flag(cells) => chunks.flags(next()?, cells)?,
        };
        row_group.append_column(&bytes, close)?;
    }
    for constant in [&format.home_id, &format.generation] {
        let (bytes, close) = chunks.constant(next()?, constant.as_bytes(), group.len())?;
        row_group.append_column(&bytes, close)?;
    }
    let (bytes, close) = chunks.growing(next()?, &group.ts_us)?;
    row_group.append_column(&bytes, close)?;
    row_group.close()?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use proptest::prelude::*;
    use rusqlite::types::ValueRef;

    use super::*;

    const COLUMNS: [(&str, ColumnKind); 5] = [
        ("ts", ColumnKind::Text),
        ("message_id", ColumnKind::Text),
        ("model", ColumnKind::Text),
        ("number", ColumnKind::Number),
        ("flag", ColumnKind::Flag),
    ];
    type Cells = (Option<String>, Option<String>, Option<String>, Option<i64>, Option<bool>);

    /// A time that can be printed.
    fn us_of(number: Option<i64>) -> Option<i64> {
        number.map(|number| number % 4_000_000_000_000_000)
    }

    /// The bytes of a file with these rows; every `rows_max` rows are a row group.
    fn written(rows: &[Cells], rows_max: usize) -> Vec<u8> {
        let columns = COLUMNS.map(|(name, kind)| ExportColumn { name, place: 0, kind, is_hashed: false });
        let format = FileFormat::new(columns.to_vec(), "h", "g").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut chunks = ChunkMaker::new().unwrap();
        let mut file = DayFile::new(&format, RowGroup::new(&columns), directory.path()).unwrap();
        for rows in rows.chunks(rows_max) {
            for (ts, id, model, number, flag) in rows {
                let RowGroup { cells, texts, ts_us, .. } = &mut file.group;
                let [
                    ColumnCells::Text(one),
                    ColumnCells::Text(two),
                    ColumnCells::Text(three),
                    ColumnCells::Number(numbers),
                    ColumnCells::Flag(flags),
                ] = &mut cells[..]
                else {
                    panic!()
                };
                for (cells, text) in [(one, ts), (two, id), (three, model)] {
                    let text = text.as_ref().map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes()));
                    assert!(!cells.push(texts, text, None));
                }
                numbers.push(*number);
                flags.push(*flag);
                ts_us.push(us_of(*number));
            }
            file.write_group(&format, &mut chunks).unwrap();
        }
        let (made, _) = file.finish(&format, &mut chunks).unwrap();
        let mut bytes = Vec::new();
        let read = made.content.pieces(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        read.unwrap();
        bytes
    }

    /// Reads the file with the reader of the crate `parquet`, and checks the statistics.
    fn assert_read_back(rows: &[Cells], rows_max: usize) {
        let bytes = written(rows, rows_max);
        assert!(bytes == written(rows, rows_max));
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        let found: Vec<String> =
            reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        let shown = |cell: Option<String>| cell.unwrap_or("null".to_owned());
        let text = |text: &Option<String>| shown(text.as_ref().map(|text| format!("{text:?}")));
        let time = |number: &Option<i64>| {
            shown(us_of(*number).map(|us| parquet::record::Field::TimestampMicros(us).to_string()))
        };
        let wanted = rows.iter().map(|(ts, id, model, number, flag)| {
            let (number, flag, ts_us) = (shown(number.map(|of| of.to_string())), shown(flag.map(|of| of.to_string())), time(number));
            format!(
                "{{ts: {}, message_id: {}, model: {}, number: {number}, flag: {flag}, home_id: \"h\", generation: \"g\", ts_us: {ts_us}}}",
                text(ts), text(id), text(model)
            )
        });
        assert_eq!(found, wanted.collect::<Vec<_>>());
        for (group, rows) in reader.metadata().row_groups().iter().zip(rows.chunks(rows_max)) {
            assert_eq!(group.num_rows() as usize, rows.len());
            let bounds = |column: usize| {
                let statistics = group.column(column).statistics()?;
                Some((
                    statistics.min_bytes_opt()?.to_vec(),
                    statistics.max_bytes_opt()?.to_vec(),
                    statistics.null_count_opt()?,
                ))
            };
            let nulls = |count: usize| (rows.len() - count) as u64;
            let numbers: Vec<i64> = rows.iter().filter_map(|row| row.3).collect();
            let least = numbers.iter().min().zip(numbers.iter().max());
            let of_number = |number: &i64| number.to_le_bytes().to_vec();
            let wanted = least.map(|(min, max)| (of_number(min), of_number(max), nulls(numbers.len())));
            assert_eq!(bounds(3), wanted);
            let models: Vec<&String> = rows.iter().filter_map(|row| row.2.as_ref()).collect();
            let least = models
                .iter()
                .min()
                .zip(models.iter().max())
                .filter(|(min, max)| min.len().max(max.len()) <= 64);
            let wanted = least
                .map(|(min, max)| (min.as_bytes().to_vec(), max.as_bytes().to_vec(), nulls(models.len())));
            assert_eq!((bounds(2), bounds(1)), (wanted, None));
        }
    }

    fn cells() -> impl Strategy<Value = Cells> {
        let text = || {
            proptest::option::weighted(0.8, prop_oneof![Just(String::new()), "[ab]{1,3}", "[a-zäß€]{0,90}"])
        };
        let number = proptest::option::weighted(
            0.8,
            prop_oneof![Just(0), 0..9_i64, any::<i64>(), Just(i64::MIN), Just(i64::MAX)],
        );
        (text(), text(), text(), number, proptest::option::weighted(0.8, any::<bool>()))
    }

    proptest! {
        #[test]
        fn rows_come_back(runs in proptest::collection::vec((cells(), 1..30_usize), 1..60), rows_max in 1..900_usize) {
            let rows: Vec<Cells> = runs.into_iter().flat_map(|(cells, count)| std::iter::repeat_n(cells, count)).collect();
            assert_read_back(&rows, rows_max);
        }
    }

    #[test]
    fn a_row_group_of_several_pages_comes_back() {
        let rows: Vec<Cells> = (0..70_000_i64)
            .map(|at| {
                let text = |number: i64| Some(format!("text {number}")).filter(|_| at % 7 != 0);
                (
                    text(at / 3),
                    text(at * 77_777),
                    text(at % 500),
                    Some(at * at).filter(|_| at % 50_000 < 40_000),
                    Some(at % 3 == 0),
                )
            })
            .collect();
        assert_read_back(&rows, usize::MAX);
        let none: Vec<Cells> = vec![(None, None, None, None, None); 40_000];
        assert_read_back(&none, 30_000);
    }
}
