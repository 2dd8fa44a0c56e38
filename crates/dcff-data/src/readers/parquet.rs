//! The Hub's parquet layout of image datasets: a column `img` or `image` of `{bytes, path}` and an integer column `label`.
//!
//! Only the two columns needed are read, page by page, without Arrow; the images are decoded in parallel.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use rayon::prelude::*;

use super::decode::decode;
use crate::{Dataset, Error, Result};

/// Names under which encoded images are found, in order of preference.
const IMAGE_COLUMNS: [&str; 4] = ["img.bytes", "image.bytes", "img", "image"];
const LABEL_COLUMN: &str = "label";

/// Rows asked for at once; a page may hold fewer.
const ROWS_AT_ONCE: usize = 4096;

/// Reads parquet files in the order given into one set of images `shape = [C, H, W]`, of `most` rows in all at most.
///
/// # Errors
/// If there are more rows (they are counted before any is read), a file cannot be read, is truncated or damaged, lacks a column, or a row holds no image, an image that does not decode or has
/// another shape, or a label without a class. The message names file and row.
pub fn read_parquet(
    name: &str,
    files: &[PathBuf],
    shape: [usize; 3],
    classes: &[String],
    most: usize,
) -> Result<Dataset> {
    let (mut labels, mut pixels) = (Vec::new(), Vec::new());
    for file in files {
        let left = most.saturating_sub(labels.len());
        let handle = File::open(file).map_err(|error| Error::io(file, error))?;
        // Damaged metadata may break an assumption inside the parquet crate; that is a damaged file, not a crash.
        let columns = catch_unwind(AssertUnwindSafe(|| read_columns(handle, left)))
            .unwrap_or_else(|_| Err(ParquetError::General("unreadable metadata".to_owned())))
            .map_err(|error| Error::damaged(file, format!("expected a parquet file: {error}")))?;
        append_rows(
            file,
            &columns,
            shape,
            classes.len(),
            &mut labels,
            &mut pixels,
        )?;
    }
    Dataset::new(name, shape, classes.to_vec(), labels, pixels)
}

/// The two columns of a file; `None` where a row has no value.
#[derive(Default)]
struct Columns {
    images: Vec<Option<ByteArray>>,
    labels: Vec<Option<i64>>,
}

fn read_columns(handle: File, most: usize) -> ParquetResult<Columns> {
    let reader = SerializedFileReader::new(handle)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let image_column = find_column(schema, &IMAGE_COLUMNS)?;
    let label_column = find_column(schema, &[LABEL_COLUMN])?;

    // Equal rows take no room in the file: three million of them fit 18 KB.
    let groups = reader.metadata().row_groups().iter();
    let rows = groups
        .map(|group| usize::try_from(group.num_rows()).ok())
        .try_fold(0usize, |sum, rows| sum.checked_add(rows?));
    if rows.is_none_or(|rows| rows > most) {
        let got = rows.map_or_else(|| "more".to_owned(), |rows| rows.to_string());
        let detail = format!("expected at most {most} rows, got {got}");
        return Err(ParquetError::General(detail));
    }

    let mut columns = Columns::default();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group)?;
        columns
            .images
            .extend(read_column::<ByteArrayType>(&*group, image_column)?);
        match group.get_column_reader(label_column)? {
            ColumnReader::Int64ColumnReader(_) => {
                columns
                    .labels
                    .extend(read_column::<Int64Type>(&*group, label_column)?);
            }
            ColumnReader::Int32ColumnReader(_) => {
                let narrow = read_column::<Int32Type>(&*group, label_column)?;
                columns
                    .labels
                    .extend(narrow.into_iter().map(|label| label.map(i64::from)));
            }
            _ => {
                let detail = format!("expected integers in column `{LABEL_COLUMN}`");
                return Err(ParquetError::General(detail));
            }
        }
        if columns.images.len() != columns.labels.len() {
            let detail = format!(
                "expected as many labels as images, got {} and {}",
                columns.labels.len(),
                columns.images.len()
            );
            return Err(ParquetError::General(detail));
        }
    }
    Ok(columns)
}

fn find_column(schema: &SchemaDescriptor, names: &[&str]) -> ParquetResult<usize> {
    let columns: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
    let index = names
        .iter()
        .find_map(|name| columns.iter().position(|column| column == name))
        .ok_or_else(|| {
            ParquetError::General(format!(
                "expected a column `{}`, got {}",
                names.join("` or `"),
                columns.join(", ")
            ))
        })?;
    if schema.column(index).max_rep_level() > 0 {
        let detail = format!("expected one value per row in column `{}`", columns[index]);
        return Err(ParquetError::General(detail));
    }
    Ok(index)
}

/// All values of one column of a row group.
fn read_column<T: DataType>(
    group: &dyn RowGroupReader,
    column: usize,
) -> ParquetResult<Vec<Option<T::T>>> {
    let description = group.metadata().column(column).column_descr_ptr();
    if description.physical_type() != T::get_physical_type() {
        return Err(ParquetError::General(format!(
            "expected {} in column `{}`, got {}",
            T::get_physical_type(),
            description.path().string(),
            description.physical_type()
        )));
    }
    let present = description.max_def_level();
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(column)?);
    let expected = group.metadata().num_rows();
    let mut column = Vec::new();
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    // Pages may hold other numbers of rows than the group says.
    while i64::try_from(column.len()).is_ok_and(|len| len <= expected) {
        levels.clear();
        values.clear();
        let (rows, _, _) =
            reader.read_records(ROWS_AT_ONCE, Some(&mut levels), None, &mut values)?;
        if rows == 0 {
            break;
        }
        let mut values = values.drain(..);
        if present == 0 {
            column.extend(values.map(Some));
        } else {
            column.extend(levels.iter().map(|&level| {
                if level == present {
                    values.next()
                } else {
                    None
                }
            }));
        }
    }
    if i64::try_from(column.len()) != Ok(expected) {
        let detail = format!(
            "damaged: expected {expected} rows in a group, got {}",
            column.len()
        );
        return Err(ParquetError::General(detail));
    }
    Ok(column)
}

/// Decodes the images and appends them with their labels.
fn append_rows(
    file: &Path,
    columns: &Columns,
    shape: [usize; 3],
    classes: usize,
    labels: &mut Vec<u32>,
    pixels: &mut Vec<u8>,
) -> Result<()> {
    let [channels, height, width] = shape;
    let len = channels * height * width;
    let start = pixels.len();
    pixels.resize(start + columns.images.len() * len, 0);
    pixels[start..]
        .par_chunks_exact_mut(len)
        .zip(&columns.images)
        .enumerate()
        .map(|(row, (out, bytes))| {
            bytes
                .as_ref()
                .ok_or_else(|| "expected an image, got null".to_owned())
                .and_then(|bytes| decode(bytes.data(), Some((height, width))))
                .and_then(|image| image.with_channels(channels))
                .map(|image| image.write_planes(out))
                .map_err(|detail| Error::record(file, "row", row, detail))
        })
        // The first row in file order, so that the message does not depend on the number of threads.
        .collect::<Vec<Result<()>>>()
        .into_iter()
        .collect::<Result<()>>()?;
    for (row, &label) in columns.labels.iter().enumerate() {
        let fits = label
            .and_then(|l| u32::try_from(l).ok())
            .filter(|&l| (l as usize) < classes);
        labels.push(fits.ok_or_else(|| {
            let got = label.map_or("null".to_owned(), |l| l.to_string());
            Error::record(
                file,
                "row",
                row,
                format!("expected a label below {classes}, got {got}"),
            )
        })?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::readers::decode::tests::png;

    const SCHEMA: &str = "message schema {
        optional group img { optional binary bytes; optional binary path (UTF8); }
        optional int64 label;
    }";

    fn names() -> Vec<String> {
        (0..10).map(|i| format!("c{i}")).collect()
    }

    /// Writes rows as the Hub does: nullable columns, several row groups (of `group` rows).
    fn write(path: &Path, schema: &str, group: usize, rows: &[(Vec<u8>, i64)]) {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(
            WriterProperties::builder()
                .set_compression(parquet::basic::Compression::SNAPPY)
                .build(),
        );
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        for rows in rows.chunks(group) {
            let mut row_group = writer.next_row_group().unwrap();
            let images: Vec<ByteArray> = rows.iter().map(|r| r.0.clone().into()).collect();
            let labels: Vec<i64> = rows.iter().map(|r| r.1).collect();
            let mut column = row_group.next_column().unwrap().unwrap();
            let levels = vec![2; rows.len()];
            column
                .typed::<ByteArrayType>()
                .write_batch(&images, Some(&levels), None)
                .unwrap();
            column.close().unwrap();
            let mut column = row_group.next_column().unwrap().unwrap();
            let levels = vec![0; rows.len()];
            column
                .typed::<ByteArrayType>()
                .write_batch(&[], Some(&levels), None)
                .unwrap();
            column.close().unwrap();
            let mut column = row_group.next_column().unwrap().unwrap();
            let levels = vec![1; rows.len()];
            column
                .typed::<Int64Type>()
                .write_batch(&labels, Some(&levels), None)
                .unwrap();
            column.close().unwrap();
            row_group.close().unwrap();
        }
        writer.close().unwrap();
    }

    /// Image `i` of 2 rows and 3 columns: every byte differs from its neighbours.
    fn planes(i: usize) -> Vec<u8> {
        (0..18).map(|p| (p * 11 + i * 5) as u8).collect()
    }

    fn rows(n: usize) -> Vec<(Vec<u8>, i64)> {
        (0..n)
            .map(|i| (png(&planes(i), 2, 3), (i % 10) as i64))
            .collect()
    }

    fn read(path: &Path) -> Result<Dataset> {
        read_parquet("toy", &[path.to_owned()], [3, 2, 3], &names(), 1000)
    }

    fn message(path: &Path) -> String {
        read(path)
            .unwrap_err()
            .to_string()
            .replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn rows_are_counted_before_any_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        // One image over and over takes a few bytes a thousand rows.
        let row = (png(&planes(0), 2, 3), 1);
        write(&path, SCHEMA, 400, &vec![row; 1001]);
        assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
        assert_eq!(
            message(&path),
            "FILE: expected a parquet file: Parquet error: expected at most 1000 rows, got 1001"
        );
        // Together the two files have too many.
        let small = folder.path().join("b.parquet");
        write(&small, SCHEMA, 400, &rows(600));
        let both = [small.clone(), small];
        let error = read_parquet("toy", &both, [3, 2, 3], &names(), 1000).unwrap_err();
        let text = error.to_string();
        assert!(
            text.ends_with("expected at most 400 rows, got 600"),
            "{text}"
        );
    }

    #[test]
    fn images_come_back_untransposed_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.parquet");
        write(&path, SCHEMA, 4, &rows(11));
        let set = read(&path).unwrap();
        assert_eq!(set.len(), 11);
        for i in 0..11 {
            assert_eq!(set.image(i), planes(i), "image {i}");
            assert_eq!(set.labels()[i] as usize, i % 10);
        }
        // Channel 1, row 1, column 2 of image 6: (1 * 6 + 1 * 3 + 2) * 11 + 6 * 5.
        assert_eq!(set.image(6)[11], 151);
    }

    #[test]
    fn other_column_names_and_several_files() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            folder.path().join("a.parquet"),
            folder.path().join("b.parquet"),
        ];
        write(&files[0], &SCHEMA.replace("img", "image"), 4, &rows(2));
        write(&files[1], SCHEMA, 4, &rows(3));
        let set = read_parquet("toy", &files, [3, 2, 3], &names(), 1000).unwrap();
        assert_eq!(set.labels(), [0, 1, 0, 1, 2]);
        write(&files[0], &SCHEMA.replace("img", "picture"), 4, &rows(2));
        assert!(message(&files[0]).contains(
            "expected a column `img.bytes` or `image.bytes` or `img` or `image`, got picture.bytes, picture.path, label"
        ));
    }

    #[test]
    fn bad_rows_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.parquet");
        let with = |row: usize, bad: (Vec<u8>, i64)| {
            let mut rows = rows(6);
            rows[row] = bad;
            write(&path, SCHEMA, 4, &rows);
            message(&path)
        };
        assert_eq!(
            with(5, (rows(1)[0].0.clone(), 10)),
            "FILE: row 5: expected a label below 10, got 10"
        );
        assert_eq!(
            with(1, (rows(1)[0].0.clone(), -1)),
            "FILE: row 1: expected a label below 10, got -1"
        );
        assert_eq!(
            with(4, (png(&planes(0), 3, 2), 0)),
            "FILE: row 4: expected 3x2 pixels, got 2x3"
        );
        assert!(
            with(2, (b"GIF".to_vec(), 0)).starts_with("FILE: row 2: expected a PNG, JPEG, WebP")
        );
    }

    #[test]
    fn truncated_or_flipped_files_are_errors_and_never_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.parquet");
        write(&path, SCHEMA, 4, &rows(6));
        let good = std::fs::read(&path).unwrap();
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(
                message(&path).starts_with("FILE: expected a parquet file:"),
                "{length}"
            );
        }
        for position in 0..good.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = good.clone();
                damaged[position] ^= bit;
                std::fs::write(&path, &damaged).unwrap();
                // PNG checks its pixels and the reader its metadata; a flip in a label or in statistics may go unseen.
                if let Ok(set) = read(&path) {
                    assert_eq!(set.len(), 6, "{position}");
                }
            }
        }
    }
}
