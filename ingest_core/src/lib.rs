//! The native core of WebMACS: it touches every reading exactly once. `webmacs/ingest_core.pyi` is the page to read first.

pub mod batch;
mod boundary;
pub mod buffer;
pub mod catalogue;
pub mod compact;
pub mod copy;
pub mod drain;
pub mod error;
pub mod frame;
pub mod intake;
pub mod json;
pub mod latest;
pub mod line;
pub mod listing;
pub mod pack;
pub mod panic;
pub mod rule;
pub mod run;
pub mod series;
pub mod text;
pub mod validate;

#[pyo3::pymodule(gil_used = false)]
mod ingest_core {
    #[pymodule_export]
    use super::boundary::{
        decode_run, erase, list_readings, peek, Accepted, Batch, Compaction, Core, Drained, Merged, Refused, Segment, Taken, Unnamed,
        Unowned, View, Window,
    };
    #[pymodule_export]
    use super::error::{CoreError, CorruptPayload};

    use pyo3::prelude::*;
    use pyo3::types::{PyBytes, PyTuple};

    use super::{batch, compact, copy, line, run, validate};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("FRAME_BYTES_MAX", validate::FRAME_BYTES_MAX)?;
        module.add("FRAME_READINGS_MAX", validate::FRAME_READINGS_MAX)?;
        module.add("BATCH_BYTES_MAX", batch::BATCH_BYTES_MAX)?;
        module.add("BATCH_READINGS_MAX", batch::BATCH_READINGS_MAX)?;
        module.add("LINE_READINGS_MAX", line::LINE_READINGS_MAX)?;
        module.add("SERIES_CHARS_MAX", line::SERIES_CHARS_MAX)?;
        module.add("CHANNELS_MAX", validate::CHANNELS_MAX)?;
        module.add("PAST_US_MAX", validate::PAST_US_MAX)?;
        module.add("FUTURE_US_MAX", validate::FUTURE_US_MAX)?;
        module.add("RUN_READINGS_MAX", run::RUN_READINGS_MAX)?;
        module.add("RUN_SPAN_US_MAX", run::RUN_SPAN_US_MAX)?;
        module.add("PACKED_READINGS", run::PACKED_READINGS)?;
        module.add("SETTLED_READINGS_MIN", run::SETTLED_READINGS_MIN)?;
        module.add("COMPACTION_RUNS_MAX", compact::RUNS_MAX)?;
        module.add("COPY_HEADER", PyBytes::new(module.py(), &copy::HEADER))?;
        module.add("COPY_TRAILER", PyBytes::new(module.py(), &copy::TRAILER))?;
        module.add("COPY_COLUMNS", PyTuple::new(module.py(), copy::COLUMNS)?)?;
        module.add("LATEST_COLUMNS", PyTuple::new(module.py(), copy::LATEST_COLUMNS)?)
    }
}
