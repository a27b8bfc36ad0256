//! Stored runs -> the buckets of a chart. Statistics answer what they can, payloads the rest; no reading counts twice.

use std::collections::HashMap;

use crate::copy::{fixed, timestamp, Rows};
use crate::error::Fault;
use crate::json::{push_float, push_int};
use crate::pack::unpack;
use crate::run::{newest_written, sum, Extremes};

/// A row of `datapoints` without its payload.
#[derive(Clone, Copy, Debug)]
struct Stored {
    id: i64,
    created_us: i64,
    last_us: i64,
    n: i64,
    extremes: Extremes,
    sum: f64,
    last: f64,
    overlapping: bool,
}

/// Runs that are apart in time from all others. Most hold one run.
#[derive(Debug)]
struct Piece {
    /// of Window::runs
    runs: std::ops::Range<usize>,
    decoded: bool,
}

/// The division of [from_us, to_us) into `count` buckets of equal width, exact in integers.
#[derive(Clone, Copy, Debug)]
struct Grid {
    from_us: i64,
    to_us: i64,
    count: i64,
}

impl Grid {
    fn span(&self) -> i128 {
        i128::from(self.to_us) - i128::from(self.from_us)
    }

    /// For an instant in the window.
    fn bucket(&self, t_us: i64) -> usize {
        ((i128::from(t_us) - i128::from(self.from_us)) * i128::from(self.count) / self.span()) as usize
    }

    /// The first instant after a bucket.
    fn end_us(&self, bucket: usize) -> i64 {
        let end = (bucket as i128 + 1) * self.span();
        let count = i128::from(self.count);
        self.from_us + ((end + count - 1) / count) as i64
    }

    /// A run of up to two buckets goes whole into the one in which it begins: an hour at 1 kHz is packed into 880 runs, and is a chart
    /// of 1,000 points from statistics alone.
    fn is_too_long(&self, run: &Stored) -> bool {
        (i128::from(run.last_us) - i128::from(run.created_us)) * i128::from(self.count) > 2 * self.span()
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    t0: i64,
    t1: i64,
    extremes: Extremes,
    sum: f64,
    last: f64,
    n: i64,
}

impl Bucket {
    const EMPTY: Bucket = Bucket { t0: i64::MAX, t1: i64::MIN, extremes: Extremes::NONE, sum: 0.0, last: 0.0, n: 0 };

    fn join(&mut self, other: &Bucket) {
        if other.t1 >= self.t1 {
            self.last = other.last;
        }
        self.t0 = self.t0.min(other.t0);
        self.t1 = self.t1.max(other.t1);
        self.extremes.join(other.extremes);
        self.sum += other.sum;
        self.n += other.n;
    }
}

#[derive(Debug)]
pub struct Window {
    grid: Grid,
    runs: Vec<Stored>,
    pieces: Vec<Piece>,
}

impl Window {
    /// `stats`: a binary COPY of (created_on, id, last_on, n, min, max, sum, first, last, encoding, overlapping).
    pub fn new(stats: &[u8], from_us: i64, to_us: i64, max_points: i64, grid: bool) -> Result<Window, Fault> {
        if from_us >= to_us || max_points < 1 {
            return Err(Fault::Misuse(format!("a window from {from_us} to {to_us} does not make {max_points} buckets")));
        }
        let mut runs = read_stats(stats)?;
        runs.retain(|run| run.created_us < to_us && run.last_us >= from_us);
        runs.sort_unstable_by_key(|run| (run.created_us, run.id));
        let division = Grid { from_us, to_us, count: max_points };
        let mut pieces = Vec::new();
        let mut begun = 0;
        while begun < runs.len() {
            let mut ended = begun + 1;
            let mut last_us = runs[begun].last_us;
            while ended < runs.len() && runs[ended].created_us <= last_us {
                last_us = last_us.max(runs[ended].last_us);
                ended += 1;
            }
            push_piece(&runs, begun..ended, division, grid, &mut pieces);
            begun = ended;
        }
        Ok(Window { grid: division, runs, pieces })
    }

    /// (created_us, id) of the runs whose payload is needed.
    pub fn wanted(&self) -> Vec<(i64, i64)> {
        let decoded = self.pieces.iter().filter(|piece| piece.decoded);
        decoded.flat_map(|piece| &self.runs[piece.runs.clone()]).map(|run| (run.created_us, run.id)).collect()
    }

    /// `payloads`: a binary COPY of (created_on, id, encoding, payload) of the wanted runs, or nothing.
    pub fn series(&self, payloads: &[u8]) -> Result<Vec<u8>, Fault> {
        let payloads = read_payloads(payloads)?;
        let mut buckets: Vec<Option<Bucket>> = vec![None; self.grid.count as usize];
        let mut add = |bucket: usize, part: &Bucket| buckets[bucket].get_or_insert(Bucket::EMPTY).join(part);
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for piece in &self.pieces {
            let runs = &self.runs[piece.runs.clone()];
            if !piece.decoded {
                for run in runs {
                    let &Stored { created_us: t0, last_us: t1, n, extremes, sum, last, .. } = run;
                    add(self.grid.bucket(t0), &Bucket { t0, t1, extremes, sum, last, n });
                }
                continue;
            }
            times.clear();
            values.clear();
            decode(runs, &payloads, &mut times, &mut values)?;
            let begin = times.partition_point(|&t_us| t_us < self.grid.from_us);
            let end = times.partition_point(|&t_us| t_us < self.grid.to_us);
            self.divide(&times[begin..end], &values[begin..end], &mut add);
        }
        let buckets: Vec<Bucket> = buckets.into_iter().flatten().collect();
        Ok(write(&buckets))
    }

    /// Strictly increasing readings in the window, bucket by bucket.
    fn divide(&self, mut times: &[i64], mut values: &[f64], add: &mut impl FnMut(usize, &Bucket)) {
        while let Some(&t0) = times.first() {
            let bucket = self.grid.bucket(t0);
            let end_us = self.grid.end_us(bucket);
            let n = times.partition_point(|&t_us| t_us < end_us);
            let (own, extremes) = (&values[..n], Extremes::of(&values[..n]));
            add(bucket, &Bucket { t0, t1: times[n - 1], extremes, sum: sum(own), last: own[n - 1], n: n as i64 });
            (times, values) = (&times[n..], &values[n..]);
        }
    }
}

/// Runs that touch one another are one piece when a marked one is among them; else each is a piece of its own.
fn push_piece(runs: &[Stored], range: std::ops::Range<usize>, grid: Grid, exact_edges: bool, pieces: &mut Vec<Piece>) {
    let members = &runs[range.clone()];
    if members.len() > 1 && members.iter().any(|run| run.overlapping) {
        pieces.push(Piece { runs: range, decoded: true });
        return;
    }
    for (k, run) in range.zip(members) {
        let inside = run.created_us >= grid.from_us && run.last_us < grid.to_us;
        let crosses = || exact_edges && grid.bucket(run.created_us) != grid.bucket(run.last_us);
        pieces.push(Piece { runs: k..k + 1, decoded: !inside || grid.is_too_long(run) || crosses() });
    }
}

fn place(run: &Stored) -> String {
    format!("the run {} of {} µs", run.id, run.created_us)
}

/// The readings of runs that touch one another, in order; the highest id wins an instant.
fn decode(runs: &[Stored], payloads: &Payloads<'_>, times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Fault> {
    let mut writers = Vec::new();
    for run in runs {
        let missing = || Fault::Corrupt(format!("{}: its payload is missing", place(run)));
        let &(encoding, payload) = payloads.get(&(run.created_us, run.id)).ok_or_else(missing)?;
        let begun = times.len();
        unpack(run.created_us, encoding, payload, times, values).map_err(|fault| Fault::Corrupt(format!("{}: {fault}", place(run))))?;
        if (times.len() - begun) as i64 != run.n {
            return Err(Fault::Corrupt(format!("{}: its payload does not hold its {} readings", place(run), run.n)));
        }
        if runs.len() > 1 {
            writers.resize(times.len(), run.id);
        }
    }
    if runs.len() > 1 {
        newest_written(&writers, times, values);
    }
    Ok(())
}

fn read_stats(copy: &[u8]) -> Result<Vec<Stored>, Fault> {
    let mut rows = Rows::new(copy)?;
    let mut runs = Vec::new();
    while let Some([created_on, id, last_on, n, min, max, sum, _first, last, _encoding, overlapping]) = rows.read()? {
        let run = Stored {
            id: i64::from_be_bytes(fixed(id)?),
            created_us: timestamp(created_on)?,
            last_us: timestamp(last_on)?,
            n: i32::from_be_bytes(fixed(n)?).into(),
            extremes: Extremes { min: f64::from_be_bytes(fixed(min)?), max: f64::from_be_bytes(fixed(max)?) },
            sum: f64::from_be_bytes(fixed(sum)?),
            last: f64::from_be_bytes(fixed(last)?),
            overlapping: fixed::<1>(overlapping)? != [0],
        };
        if run.last_us < run.created_us || run.n < 1 {
            return Err(Fault::Corrupt(format!("{}: its statistics contradict each other", place(&run))));
        }
        runs.push(run);
    }
    Ok(runs)
}

/// (created_us, id) -> (encoding, payload)
type Payloads<'a> = HashMap<(i64, i64), (i16, &'a [u8])>;

fn read_payloads(copy: &[u8]) -> Result<Payloads<'_>, Fault> {
    let mut payloads = HashMap::new();
    if copy.is_empty() {
        return Ok(payloads);
    }
    let mut rows = Rows::new(copy)?;
    while let Some([created_on, id, encoding, payload]) = rows.read()? {
        let key = (timestamp(created_on)?, i64::from_be_bytes(fixed(id)?));
        let payload = payload.ok_or_else(|| Fault::Corrupt("a payload is null".into()))?;
        payloads.insert(key, (i16::from_be_bytes(fixed(encoding)?), payload));
    }
    Ok(payloads)
}

fn write(buckets: &[Bucket]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + 120 * buckets.len());
    let mut column = |name: &str, put: &dyn Fn(&mut Vec<u8>, &Bucket)| {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(format!("\"{name}\":[").as_bytes());
        for (k, bucket) in buckets.iter().enumerate() {
            if k > 0 {
                out.push(b',');
            }
            put(&mut out, bucket);
        }
        out.push(b']');
    };
    column("t0", &|out, bucket| push_int(out, bucket.t0));
    column("t1", &|out, bucket| push_int(out, bucket.t1));
    column("min", &|out, bucket| push_float(out, bucket.extremes.min));
    column("max", &|out, bucket| push_float(out, bucket.extremes.max));
    column("avg", &|out, bucket| push_float(out, bucket.sum / bucket.n as f64));
    column("last", &|out, bucket| push_float(out, bucket.last));
    column("n", &|out, bucket| push_int(out, bucket.n));
    out.push(b'}');
    out
}
