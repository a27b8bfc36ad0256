//! What Python sees. Bytes come in and go out; no Python object is made per reading. Each call detaches from the interpreter, locks,
//! works, unlocks and attaches again, in this order: nobody calls Python while holding a lock.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::batch::{self, Channel, Form};
use crate::catalogue::{Catalogue, Experiment, Names, PublicId};
use crate::compact;
use crate::drain;
use crate::error::{Fault, Refusal};
use crate::frame;
use crate::intake::{BatchVerdict, GapRow, Intake, QualityRow, Receipt, Standpoint, TextVerdict, Writer};
use crate::latest::{self, Brought, Last, Latest};
use crate::listing;
use crate::pack;
use crate::panic::{self, lock};
use crate::rule::Test;
use crate::series;

fn public_id(bytes: &[u8]) -> Result<PublicId, Fault> {
    bytes.try_into().map_err(|_| Fault::Misuse(format!("a public id has 16 bytes, not {}", bytes.len())))
}

#[pyclass(frozen, get_all, module = "webmacs.ingest_core")]
pub struct Refused {
    code: &'static str,
    channel: Option<i64>,
    position: Option<u64>,
    detail: String,
    readings: Option<u64>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        let Refusal { code, channel, position, detail, readings } = refusal;
        Refused { code: code.name(), channel, position, detail, readings }
    }
}

#[pymethods]
impl Refused {
    fn __repr__(&self) -> String {
        let Refused { code, channel, position, detail, .. } = self;
        format!("Refused({code}, channel={channel:?}, position={position:?}: {detail})")
    }
}

#[pyclass(frozen, get_all, module = "webmacs.ingest_core")]
pub struct Accepted {
    readings: u64,
}

#[pymethods]
impl Accepted {
    fn __repr__(&self) -> String {
        format!("Accepted(readings={})", self.readings)
    }
}

#[pyclass(frozen, get_all, module = "webmacs.ingest_core")]
pub struct Unowned {
    events: Vec<i32>,
}

#[derive(IntoPyObject)]
pub enum Verdict {
    Accepted(Accepted),
    Refused(Refused),
    Unowned(Unowned),
    Unnamed(Unnamed),
}

#[pyclass(frozen, module = "webmacs.ingest_core")]
pub struct Batch {
    batch: batch::Batch,
}

#[pymethods]
impl Batch {
    #[getter]
    fn offered(&self) -> usize {
        self.batch.readings.len() + self.batch.refused.count
    }

    #[getter]
    fn untimed(&self) -> usize {
        self.batch.readings.iter().filter(|reading| reading.t_us.is_none()).count()
    }

    #[getter]
    fn first<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyBytes>, Option<i64>, f64)> {
        let &batch::Reading { channel, t_us, value, .. } = self.batch.readings.first()?;
        match &self.batch.channels[channel as usize] {
            Channel::PublicId(public_id) => Some((PyBytes::new(py, public_id), t_us, value)),
            Channel::Series(_) => None,
        }
    }
}

type RefusedReading = (u32, &'static str, String);

#[pyclass(frozen, get_all, module = "webmacs.ingest_core")]
pub struct Taken {
    readings: u64,
    refused: Vec<RefusedReading>,
    refused_count: usize,
}

#[pyclass(frozen, get_all, module = "webmacs.ingest_core")]
pub struct Unnamed {
    series: Vec<String>,
    events: Vec<Py<PyBytes>>,
}

#[derive(IntoPyObject)]
pub enum Read {
    Batch(Batch),
    Refused(Refused),
}

#[derive(IntoPyObject)]
pub enum Received {
    Taken(Taken),
    Unowned(Unowned),
    Unnamed(Unnamed),
}

#[derive(IntoPyObject)]
pub enum Peeked {
    Head((i64, Option<i64>)),
    Refused(Refused),
}

#[pyfunction]
pub fn peek(frame: &[u8]) -> Peeked {
    match frame::peek(frame) {
        Ok(head) => Peeked::Head(head),
        Err(refusal) => Peeked::Refused(refusal.into()),
    }
}

type ExperimentRow = (i32, PyBackedBytes, i64, Option<i64>, Option<Vec<i32>>);

fn experiments(rows: Vec<ExperimentRow>) -> Result<Vec<Experiment>, Fault> {
    let experiment = |(id, bytes, started_us, stopped_us, scope): ExperimentRow| {
        Ok(Experiment { id, public_id: public_id(&bytes)?, started_us, stopped_us, scope: scope.map(HashSet::from_iter) })
    };
    rows.into_iter().map(experiment).collect()
}

#[pyclass(frozen, module = "webmacs.ingest_core")]
pub struct Core {
    intake: Mutex<Intake>,
    /// One drain at a time: the next one needs the frontiers of the one before.
    draining: Mutex<()>,
    latest: Arc<Mutex<Latest>>,
    catalogue: Arc<RwLock<Arc<Catalogue>>>,
    names: RwLock<Names>,
}

impl Core {
    /// Copies the catalogue, which changes seldom and is read everywhere, and puts the changed one in its place.
    fn change_catalogue(&self, change: impl FnOnce(&mut Catalogue)) {
        let mut current = self.catalogue.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Catalogue::clone(&current);
        change(&mut next);
        *current = Arc::new(next);
    }
}

fn read(catalogue: &RwLock<Arc<Catalogue>>) -> Arc<Catalogue> {
    Arc::clone(&catalogue.read().unwrap_or_else(PoisonError::into_inner))
}

#[pymethods]
impl Core {
    #[new]
    fn new() -> Core {
        Core {
            intake: Mutex::default(),
            draining: Mutex::default(),
            latest: Arc::default(),
            catalogue: Arc::default(),
            names: RwLock::default(),
        }
    }

    fn set_events(&self, py: Python<'_>, events: Vec<(i32, PyBackedBytes)>) -> PyResult<()> {
        let events = events.iter().map(|(id, bytes)| Ok((*id, public_id(bytes)?))).collect::<Result<Vec<_>, Fault>>()?;
        py.detach(|| self.change_catalogue(|catalogue| catalogue.set_events(&events)));
        Ok(())
    }

    fn add_events(&self, py: Python<'_>, events: Vec<(i32, PyBackedBytes)>) -> PyResult<()> {
        let events = events.iter().map(|(id, bytes)| Ok((*id, public_id(bytes)?))).collect::<Result<Vec<_>, Fault>>()?;
        py.detach(|| self.change_catalogue(|catalogue| catalogue.add_events(&events)));
        Ok(())
    }

    fn set_experiments(&self, py: Python<'_>, experiments: Vec<ExperimentRow>) -> PyResult<()> {
        let experiments = self::experiments(experiments)?;
        py.detach(|| self.change_catalogue(|catalogue| catalogue.set_experiments(experiments)));
        Ok(())
    }

    fn set_rules(&self, py: Python<'_>, rules: Vec<(i32, i32, String, f64, Option<f64>)>) -> PyResult<()> {
        let rules = rules.into_iter().map(|(id, event, operator, threshold, upper)| {
            let misuse = || Fault::Misuse(format!("rule {id}: {operator:?} does not go with {threshold} and {upper:?}"));
            Test::compile(&operator, threshold, upper).map(|test| (id, event, test)).ok_or_else(misuse)
        });
        let rules = rules.collect::<Result<Vec<_>, Fault>>()?;
        py.detach(|| lock(&self.intake).set_rules(&rules));
        Ok(())
    }

    fn own(&self, py: Python<'_>, writer: i32, generation: i64, events: Vec<(i32, Option<i64>)>, firing: Vec<i32>) {
        py.detach(|| lock(&self.intake).own((writer, generation), &events, &firing));
    }

    fn open(
        &self,
        py: Python<'_>,
        connection: i64,
        channels: Vec<(i64, i32)>,
        refused: Vec<i64>,
        grants: Option<Vec<i32>>,
    ) -> PyResult<()> {
        let grants = grants.map(HashSet::from_iter);
        Ok(py.detach(|| lock(&self.intake).open(connection, &channels, &refused, grants))?)
    }

    fn close(&self, py: Python<'_>, connection: i64) -> PyResult<()> {
        Ok(py.detach(|| lock(&self.intake).close(connection))?)
    }

    fn accept(&self, py: Python<'_>, connection: i64, frame: &[u8], now_us: i64) -> PyResult<Verdict> {
        let verdict = py.detach(|| {
            let verdict = lock(&self.intake).accept(connection, frame, now_us)?;
            if let Ok((_, shown)) = &verdict {
                if !shown.is_empty() {
                    lock(&self.latest).preview(shown);
                }
            }
            Ok::<_, Fault>(verdict)
        })?;
        Ok(match verdict {
            Ok((readings, _)) => Verdict::Accepted(Accepted { readings }),
            Err(refusal) => Verdict::Refused(refusal.into()),
        })
    }

    fn accept_text(&self, py: Python<'_>, connection: i64, index: i64, frame: &[u8], now_us: i64, named: bool) -> PyResult<Verdict> {
        let verdict = py.detach(|| {
            let catalogue = read(&self.catalogue);
            lock(&self.intake).accept_text(connection, index, frame, Standpoint { now_us, catalogue: &catalogue, names: None, named })
        })?;
        Ok(match verdict {
            TextVerdict::Accepted(readings) => Verdict::Accepted(Accepted { readings }),
            TextVerdict::Refused(refusal) => Verdict::Refused(refusal.into()),
            TextVerdict::Unowned(events) => Verdict::Unowned(Unowned { events }),
            TextVerdict::Unnamed(events) => Verdict::Unnamed(Unnamed {
                series: Vec::new(),
                events: events.iter().map(|public_id| PyBytes::new(py, public_id).unbind()).collect(),
            }),
        })
    }

    fn name_series(&self, py: Python<'_>, writer: i32, series: Vec<(String, i32)>) {
        py.detach(|| self.names.write().unwrap_or_else(PoisonError::into_inner).add(writer, series));
    }

    fn forget_series(&self, py: Python<'_>) {
        py.detach(|| self.names.write().unwrap_or_else(PoisonError::into_inner).clear());
    }

    fn read_batch(&self, py: Python<'_>, form: &str, body: &[u8]) -> PyResult<Read> {
        let form = Form::named(form).ok_or_else(|| Fault::Misuse(format!("there is no form {form:?} of a batch")))?;
        let read = py.detach(|| match panic::guarded(|| batch::read(form, body)) {
            Ok(read) => read,
            Err(said) => Err(lock(&self.intake).refuse_fault(&said)),
        });
        Ok(match read {
            Ok(batch) => Read::Batch(Batch { batch }),
            Err(refusal) => Read::Refused(refusal.into()),
        })
    }

    #[allow(clippy::too_many_arguments)] // a call of Python's, all of whose words it needs
    fn accept_batch(
        &self,
        py: Python<'_>,
        connection: i64,
        index: i64,
        batch: &Bound<'_, Batch>,
        writer: i32,
        now_us: i64,
        named: bool,
    ) -> PyResult<Received> {
        let batch = &batch.get().batch;
        let verdict = py.detach(|| {
            let catalogue = read(&self.catalogue);
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            let standpoint = Standpoint { now_us, catalogue: &catalogue, names: names.of_writer(writer), named };
            lock(&self.intake).accept_batch(connection, index, batch, standpoint)
        })?;
        Ok(match verdict {
            BatchVerdict::Taken(readings, refused) => {
                let listed = refused.listed.into_iter().map(|(position, refusal)| (position, refusal.code.name(), refusal.detail));
                Received::Taken(Taken { readings, refused: listed.collect(), refused_count: refused.count })
            }
            BatchVerdict::Unowned(events) => Received::Unowned(Unowned { events }),
            BatchVerdict::Unnamed(channels) => {
                let (mut series, mut events) = (Vec::new(), Vec::new());
                for channel in channels {
                    match channel {
                        Channel::Series(name) => series.push(name),
                        Channel::PublicId(public_id) => events.push(PyBytes::new(py, &public_id).unbind()),
                    }
                }
                Received::Unnamed(Unnamed { series, events })
            }
        })
    }

    #[getter]
    fn internal_faults(&self, py: Python<'_>) -> u64 {
        py.detach(|| lock(&self.intake).internal_faults())
    }

    #[getter]
    fn buffered_bytes(&self, py: Python<'_>) -> usize {
        py.detach(|| lock(&self.intake).buffered_bytes())
    }

    fn drain(&self, py: Python<'_>) -> PyResult<Option<Drained>> {
        let segments = py.detach(|| {
            let _one_at_a_time = lock(&self.draining);
            let taken = lock(&self.intake).drain();
            let (segments, settlement) = drain::encode(taken, &read(&self.catalogue));
            lock(&self.intake).settle(settlement);
            segments
        });
        if segments.is_empty() {
            return Ok(None);
        }
        let readings = segments.iter().map(|segment| segment.records.readings).sum();
        let runs = segments.iter().map(|segment| segment.runs).sum();
        let segments = segments.into_iter().map(|segment| Py::new(py, Segment::new(py, segment)));
        let segments = segments.collect::<PyResult<Vec<_>>>()?;
        Ok(Some(Drained { segments, readings, runs, committed: AtomicBool::new(false) }))
    }

    fn committed(&self, py: Python<'_>, drained: &Bound<'_, Drained>, void: Vec<usize>) -> PyResult<()> {
        let drained = drained.get();
        if let Some(index) = void.iter().find(|index| **index >= drained.segments.len()) {
            return Err(Fault::Misuse(format!("there is no segment {index} among {}", drained.segments.len())).into());
        }
        if drained.committed.swap(true, Ordering::SeqCst) {
            return Err(Fault::Misuse("this was committed before".into()).into());
        }
        py.detach(|| {
            let mut latest = lock(&self.latest);
            for (_, segment) in drained.segments.iter().enumerate().filter(|(index, _)| !void.contains(index)) {
                latest.commit(&segment.get().brought);
            }
        });
        Ok(())
    }

    fn set_latest(&self, py: Python<'_>, events: Option<Vec<i32>>, latest: Vec<(i32, i64, f64, Option<i32>)>) {
        let events = events.map(HashSet::from_iter);
        let latest = latest.into_iter().map(|(event, t_us, value, experiment)| (event, Last { t_us, value, experiment }));
        py.detach(|| lock(&self.latest).set(&events, latest));
    }

    fn view(&self, py: Python<'_>, events: Option<Vec<i32>>) -> View {
        let events = events.map(HashSet::from_iter);
        let view = py.detach(|| lock(&self.latest).view(events));
        View { view, latest: Arc::clone(&self.latest), catalogue: Arc::clone(&self.catalogue) }
    }

    fn snapshot<'py>(&self, py: Python<'py>, events: Option<Vec<i32>>) -> Bound<'py, PyBytes> {
        let events = events.map(HashSet::from_iter);
        let json = py.detach(|| {
            let catalogue = read(&self.catalogue);
            lock(&self.latest).snapshot(&events, &catalogue)
        });
        PyBytes::new(py, &json)
    }
}

#[pyclass(frozen, module = "webmacs.ingest_core")]
pub struct Drained {
    #[pyo3(get)]
    segments: Vec<Py<Segment>>,
    #[pyo3(get)]
    readings: u64,
    #[pyo3(get)]
    runs: u64,
    committed: AtomicBool,
}

type RefusalRow = (Option<i64>, &'static str, Option<i64>, Option<u64>, String, Option<u64>);
type TransitionRow = (i32, i32, bool, i64, f64);

#[pyclass(frozen, module = "webmacs.ingest_core")]
pub struct Segment {
    #[pyo3(get)]
    connection: i64,
    #[pyo3(get)]
    writers: Vec<Writer>,
    #[pyo3(get)]
    rows: Py<PyBytes>,
    #[pyo3(get)]
    runs: u64,
    #[pyo3(get)]
    readings: u64,
    #[pyo3(get)]
    frames: u64,
    #[pyo3(get)]
    first_seq: Option<i64>,
    #[pyo3(get)]
    last_seq: Option<i64>,
    #[pyo3(get)]
    last_index: Option<i64>,
    #[pyo3(get)]
    receipts: Vec<Receipt>,
    #[pyo3(get)]
    latest: Py<PyBytes>,
    #[pyo3(get)]
    newest_us: Option<i64>,
    #[pyo3(get)]
    gaps: Vec<GapRow>,
    #[pyo3(get)]
    quality: Vec<QualityRow>,
    #[pyo3(get)]
    refusals: Vec<RefusalRow>,
    #[pyo3(get)]
    transitions: Vec<TransitionRow>,
    /// for the views, once it is committed
    brought: Vec<Brought>,
}

impl Segment {
    fn new(py: Python<'_>, segment: drain::Segment) -> Segment {
        let drain::Segment { connection, records, rows, runs, latest, newest_us, brought } = segment;
        let refusals = records.refusals.into_iter().map(|(seq, refusal)| {
            let Refusal { code, channel, position, detail, readings } = refusal;
            (seq, code.name(), channel, position, detail, readings)
        });
        let transitions = records.transitions.iter().map(|one| (one.rule, one.event, one.fired, one.t_us, one.value));
        Segment {
            connection,
            writers: records.writers,
            rows: PyBytes::new(py, &rows).unbind(),
            runs,
            readings: records.readings,
            frames: records.frames,
            first_seq: records.first_seq,
            last_seq: records.last_seq,
            last_index: records.last_index,
            receipts: records.receipts,
            latest: PyBytes::new(py, &latest).unbind(),
            newest_us,
            gaps: records.gaps,
            quality: records.quality,
            refusals: refusals.collect(),
            transitions: transitions.collect(),
            brought,
        }
    }
}

#[pyclass(frozen, module = "webmacs.ingest_core")]
pub struct View {
    view: Arc<latest::View>,
    latest: Arc<Mutex<Latest>>,
    catalogue: Arc<RwLock<Arc<Catalogue>>>,
}

#[pymethods]
impl View {
    fn take<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let json = py.detach(|| self.view.take(&read(&self.catalogue)));
        json.map(|json| PyBytes::new(py, &json))
    }

    fn fork(&self, py: Python<'_>) -> View {
        let view = py.detach(|| lock(&self.latest).fork(&self.view));
        View { view, latest: Arc::clone(&self.latest), catalogue: Arc::clone(&self.catalogue) }
    }
}

#[pyclass(frozen, module = "webmacs.ingest_core")]
pub struct Window {
    window: series::Window,
}

#[pymethods]
impl Window {
    #[new]
    fn new(py: Python<'_>, stats: &[u8], from_us: i64, to_us: i64, max_points: i64, grid: bool) -> PyResult<Window> {
        let window = py.detach(|| series::Window::new(stats, from_us, to_us, max_points, grid))?;
        Ok(Window { window })
    }

    #[getter]
    fn wanted(&self) -> Vec<(i64, i64)> {
        self.window.wanted()
    }

    fn series<'py>(&self, py: Python<'py>, payloads: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let json = py.detach(|| self.window.series(payloads))?;
        Ok(PyBytes::new(py, &json))
    }
}

#[pyclass(frozen, get_all, module = "webmacs.ingest_core")]
pub struct Merged {
    rows: Py<PyBytes>,
    runs: u64,
    readings: u64,
}

#[pyclass(frozen, module = "webmacs.ingest_core")]
pub struct Compaction {
    plan: compact::Plan,
}

#[pymethods]
impl Compaction {
    #[new]
    fn new(py: Python<'_>, stats: &[u8], before_us: i64, thorough: bool) -> PyResult<Compaction> {
        let plan = py.detach(|| compact::Plan::new(stats, before_us, thorough))?;
        Ok(Compaction { plan })
    }

    #[getter]
    fn ranges(&self) -> Vec<(i32, i64, i64)> {
        self.plan.ranges.iter().map(|range| (range.event, range.from_us, range.to_us)).collect()
    }

    #[getter]
    fn runs(&self) -> usize {
        self.plan.ranges.iter().map(|range| range.runs).sum()
    }

    fn merge(&self, py: Python<'_>, runs: &[u8], experiments: Vec<ExperimentRow>) -> PyResult<Merged> {
        let experiments = self::experiments(experiments)?;
        let compact::Merged { rows, runs, readings } = py.detach(|| self.plan.merge(runs, &experiments))?;
        Ok(Merged { rows: PyBytes::new(py, &rows).unbind(), runs, readings })
    }
}

type ListedReading = (i32, i64, f64, Option<i32>);

#[pyfunction]
pub fn list_readings(
    py: Python<'_>,
    runs: &[u8],
    from_us: i64,
    to_us: i64,
    after: Option<(i64, i32)>,
    backwards: bool,
    limit: usize,
) -> PyResult<Vec<ListedReading>> {
    let listed = py.detach(|| listing::page(runs, (from_us, to_us), after, backwards, limit))?;
    Ok(listed.into_iter().map(|one| (one.event, one.t_us, one.value, one.experiment)).collect())
}

#[pyfunction]
pub fn decode_run<'py>(
    py: Python<'py>,
    created_us: i64,
    encoding: i16,
    payload: &[u8],
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (times, values) = py.detach(|| {
        let (mut times, mut values) = (Vec::new(), Vec::new());
        pack::unpack(created_us, encoding, payload, &mut times, &mut values)?;
        let times: Vec<u8> = times.iter().flat_map(|t_us| t_us.to_le_bytes()).collect();
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok::<_, Fault>((times, values))
    })?;
    Ok((PyBytes::new(py, &times), PyBytes::new(py, &values)))
}

#[pyfunction]
pub fn erase(py: Python<'_>, runs: &[u8], from_us: i64, to_us: i64, experiments: Vec<ExperimentRow>) -> PyResult<(Py<PyBytes>, u64)> {
    let experiments = self::experiments(experiments)?;
    let (left, erased) = py.detach(|| compact::erase(runs, from_us, to_us, &experiments))?;
    Ok((PyBytes::new(py, &left.rows).unbind(), erased))
}
