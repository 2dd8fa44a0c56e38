//! `events.out.tfevents.dcff`: the run for TensorBoard, a record per epoch.
//!
//! A record is framed as in TensorFlow's record files, with lengths and data guarded by a masked CRC-32C:
//!
//! ```text
//! u64 length | u32 mask(crc(length)) | data | u32 mask(crc(data)),      mask(c) = ((c >> 15) | (c << 17)) + 0xa282ead8
//! ```
//!
//! (`tensorflow/core/lib/io/record_writer.h`, little endian) and its data is an `Event` of `tensorflow/core/util/event.proto`
//! in protocol buffers' wire format, written here by hand: a `Summary` of scalars and of one histogram of scores per layer.
//!
//! Records are appended. A run that goes on cuts off what its checkpoint does not know and adds what was not yet written,
//! so that every epoch stands there once. Unlike the tables the file holds the time of day.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use dcff_run::selection::{SELECTION, SelectionRow, last_selection, read_selection};
use dcff_run::{Metrics, RunFolder, Timing};

use crate::error::{Error, Result};

/// The file's name in a run folder.
pub const EVENTS: &str = "events.out.tfevents.dcff";
/// What the first record of every file says.
const VERSION: &str = "brain.Event:2";
/// Records are some 20 KB; this is room for ten thousand epochs.
const MAX_BYTES: u64 = 256 << 20;
/// Buckets of a histogram.
const BUCKETS: usize = 30;

/// The event file of a run.
pub(crate) struct EventFile {
    path: PathBuf,
    selection: PathBuf,
}

impl EventFile {
    /// The file of the run in `folder`.
    pub(crate) fn of(folder: &RunFolder) -> Self {
        Self {
            path: folder.join(EVENTS),
            selection: folder.join(SELECTION),
        }
    }

    /// Opens the file of a run whose finished epochs are `metrics` and `timing`, and brings it to that state.
    pub(crate) fn open(folder: &RunFolder, metrics: &[Metrics], timing: &[Timing]) -> Result<Self> {
        let file = Self::of(folder);
        let done = metrics.last().map_or(0, |row| row.epoch);
        let found = dcff_file::read_if_any(&file.path, MAX_BYTES)?;
        let (sound, last) = found.map_or((0, 0), |found| sound_prefix(&found, done));
        let cut = || -> std::io::Result<()> {
            let open = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&file.path)?;
            open.set_len(sound as u64)
        };
        cut().map_err(|error| Error::file(&file.path, error))?;
        if sound == 0 {
            let mut event = event(0);
            bytes(&mut event, 3, VERSION.as_bytes());
            file.write(&event)?;
        }
        if last < done {
            let selection = read_selection(&file.selection)?;
            let missing = metrics
                .iter()
                .zip(timing)
                .filter(|(row, _)| row.epoch > last);
            for (row, timing) in missing {
                let selected = selection.iter().find(|s| s.epoch == row.epoch);
                file.write(&epoch(row, timing, selected))?;
            }
        }
        Ok(file)
    }

    /// Appends a finished epoch.
    pub(crate) fn append(&self, metrics: &Metrics, timing: &Timing) -> Result<()> {
        let selected = last_selection(&self.selection)?.filter(|row| row.epoch == metrics.epoch);
        self.write(&epoch(metrics, timing, selected.as_ref()))
    }

    fn write(&self, data: &[u8]) -> Result<()> {
        let append = || {
            OpenOptions::new()
                .append(true)
                .open(&self.path)?
                .write_all(&record(data))
        };
        append().map_err(|error: std::io::Error| Error::file(&self.path, error))
    }
}

/// The event of one epoch.
fn epoch(metrics: &Metrics, timing: &Timing, selection: Option<&SelectionRow>) -> Vec<u8> {
    let mut summary = Vec::new();
    let mut scalar = |tag: &str, value: f64| {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, 5);
        entry.extend((value as f32).to_le_bytes());
        bytes(&mut summary, 1, &entry);
    };
    let scores = [
        ("train", Some(metrics.train)),
        ("validation", metrics.validation),
        ("test", metrics.test),
    ];
    for (on, score) in scores {
        if let Some(score) = score {
            scalar(&format!("loss/{on}"), score.loss);
            scalar(&format!("accuracy/{on}"), score.accuracy);
        }
    }
    scalar("learning_rate", metrics.learning_rate);
    scalar("images_per_second", timing.images_per_second);
    for (name, value) in &metrics.method {
        scalar(&format!("method/{name}"), *value);
    }
    for layer in selection.iter().flat_map(|row| &row.layers) {
        if let Some(histogram) = histogram(&layer.scores) {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, format!("scores/{}", layer.layer).as_bytes());
            bytes(&mut entry, 5, &histogram);
            bytes(&mut summary, 1, &entry);
        }
    }
    let mut event = event(metrics.epoch as u64);
    bytes(&mut event, 5, &summary);
    event
}

/// `HistogramProto` of the finite values, in equal buckets; `None` when there are none.
fn histogram(values: &[f32]) -> Option<Vec<u8>> {
    let finite: Vec<f64> = values
        .iter()
        .map(|&v| f64::from(v))
        .filter(|v| v.is_finite())
        .collect();
    let low = finite.iter().copied().reduce(f64::min)?;
    let high = finite.iter().copied().reduce(f64::max)?;
    let count = if high > low { BUCKETS } else { 1 };
    let width = (high - low) / count as f64;
    let mut buckets = vec![0.0; count];
    for value in &finite {
        let at = if width > 0.0 {
            ((value - low) / width) as usize
        } else {
            0
        };
        buckets[at.min(count - 1)] += 1.0;
    }
    let limits: Vec<f64> = (1..=count)
        .map(|i| {
            if i == count {
                high
            } else {
                low + width * i as f64
            }
        })
        .collect();
    let mut proto = Vec::new();
    let moments = [
        low,
        high,
        finite.len() as f64,
        finite.iter().sum(),
        finite.iter().map(|v| v * v).sum(),
    ];
    for (field, value) in (1..).zip(moments) {
        double(&mut proto, field, value);
    }
    for (field, values) in [(6, limits), (7, buckets)] {
        let packed: Vec<u8> = values.iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        bytes(&mut proto, field, &packed);
    }
    Some(proto)
}

/// The beginning of an event: now, and its step.
fn event(step: u64) -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64());
    let mut event = Vec::new();
    double(&mut event, 1, now);
    key(&mut event, 2, 0);
    varint(&mut event, step);
    event
}

fn key(into: &mut Vec<u8>, field: u64, wire: u64) {
    varint(into, field << 3 | wire);
}

fn double(into: &mut Vec<u8>, field: u64, value: f64) {
    key(into, field, 1);
    into.extend(value.to_le_bytes());
}

fn bytes(into: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(into, field, 2);
    varint(into, value.len() as u64);
    into.extend(value);
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// The framed record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// How many bytes hold whole records of steps up to `done`, and the last step among them.
fn sound_prefix(file: &[u8], done: usize) -> (usize, usize) {
    let (mut at, mut last) = (0, 0);
    while let Some(data) = data_of(&file[at..]) {
        let step = step_of(data);
        if step > done as u64 || (at > 0 && step <= last as u64) {
            break;
        }
        last = step as usize;
        at += data.len() + 16;
    }
    (at, last)
}

/// The data of the record at the start of `file`, if it is whole and undamaged.
fn data_of(file: &[u8]) -> Option<&[u8]> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let (guard, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*guard) != masked_crc(length) {
        return None;
    }
    let data = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let guard = rest[data.len()..].first_chunk::<4>()?;
    (u32::from_le_bytes(*guard) == masked_crc(data)).then_some(data)
}

/// The step of an event as [`event`] begins it.
fn step_of(event: &[u8]) -> u64 {
    let digits = event.get(10..).unwrap_or_default();
    let mut step = 0;
    for (i, byte) in digits.iter().take(9).enumerate() {
        step |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            break;
        }
    }
    step
}

fn masked_crc(data: &[u8]) -> u32 {
    let crc = crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli's polynomial, reflected; RFC 3720, appendix B.4).
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 {
                    (crc >> 1) ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, &byte| {
        TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Score;

    fn row(epoch: usize) -> (Metrics, Timing) {
        let metrics =
            serde_json::json!({ "epoch": epoch, "learning_rate": 0.1, "train": Score::default() });
        let timing = Timing {
            epoch,
            images_per_second: 10.0,
            method_seconds: 0.0,
            train_seconds: 1.0,
            evaluation_seconds: 0.0,
        };
        (serde_json::from_value(metrics).unwrap(), timing)
    }

    fn steps(path: &std::path::Path) -> Vec<u64> {
        let file = std::fs::read(path).unwrap();
        let (mut at, mut steps) = (0, Vec::new());
        while let Some(data) = data_of(&file[at..]) {
            steps.push(step_of(data));
            at += data.len() + 16;
        }
        assert_eq!(at, file.len(), "the file ends with a whole record");
        steps
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4: 32 bytes of zeros, of ones, and 0 to 31.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        // The usual check value of the nine digits.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_event_is_the_bytes_of_its_wire_format() {
        let mut bytes_of = Vec::new();
        varint(&mut bytes_of, 300);
        assert_eq!(bytes_of, [0xac, 0x02]);
        let event = event(300);
        // wall_time: field 1, eight bytes; step: field 2, a varint.
        assert_eq!((event[0], &event[9..]), (0x09, &[0x10, 0xac, 0x02][..]));
        assert_eq!(step_of(&event), 300);
    }

    #[test]
    fn a_histogram_counts_every_finite_score() {
        let proto = histogram(&[0.0, 1.0, 1.0, f32::NAN, 3.0]).unwrap();
        // min 0, max 3, num 4, sum 5, sum of squares 11: nine bytes each.
        for (i, value) in [0.0f64, 3.0, 4.0, 5.0, 11.0].into_iter().enumerate() {
            assert_eq!(proto[9 * i + 1..9 * i + 9], value.to_le_bytes());
        }
        // Then two packed lists of 30 numbers.
        assert_eq!(proto.len(), 45 + 2 * (3 + 8 * BUCKETS));
        assert!(histogram(&[f32::NAN]).is_none());
        assert_eq!(histogram(&[2.0, 2.0]).unwrap().len(), 45 + 2 * (2 + 8));
    }

    #[test]
    fn every_epoch_stands_there_once_however_often_the_run_starts() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(dir.path());
        let path = dir.path().join(EVENTS);
        let (metrics, timing): (Vec<_>, Vec<_>) = (1..=4).map(row).unzip();
        let events = EventFile::open(&folder, &[], &[]).unwrap();
        for i in 0..3 {
            events.append(&metrics[i], &timing[i]).unwrap();
        }
        assert_eq!(steps(&path), [0, 1, 2, 3]);
        // Killed while it wrote the fourth; the checkpoint knows two epochs.
        let mut cut = OpenOptions::new().append(true).open(&path).unwrap();
        cut.write_all(&record(&epoch(&metrics[3], &timing[3], None))[..40])
            .unwrap();
        drop(cut);
        let events = EventFile::open(&folder, &metrics[..2], &timing[..2]).unwrap();
        assert_eq!(steps(&path), [0, 1, 2]);
        events.append(&metrics[2], &timing[2]).unwrap();
        // Killed between the checkpoint and the record.
        EventFile::open(&folder, &metrics, &timing).unwrap();
        assert_eq!(steps(&path), [0, 1, 2, 3, 4]);
    }
}
