//! Millions of damaged messages: none makes the core panic, keep a wrong reading, or hold more memory than four times its length. Beside
//! that stand only the 16 bytes of each reading that is kept, and the words of a refusal.
//!
//! WEBMACS_TEST_FRAMES sets how many (the default suits a debug build), WEBMACS_TEST_SEED replays; the last line printed is the count.

mod parts;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

use ingest_core::batch::{self, Channel, Form};
use ingest_core::error::Refusal;
use ingest_core::frame::{self, KIND_DATA, KIND_GAP, KIND_PREVIEW, KIND_QUALITY};
use ingest_core::intake::{BatchVerdict, Standpoint};
use ingest_core::line::Unit;
use parts::hostile::{catalogue, core, hold_to, is_text, offer};
use parts::NOW_US;

/// Counts what this thread holds. Only differences count, so a thread may free what another one made.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches two cells that need no memory and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize); // both may exist while one is copied into the other
        let moved = unsafe { System.realloc(at, layout, size) };
        count(-(layout.size() as isize));
        moved
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The bytes that `work` held at most beyond what was held before it.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
}

/// What a message may make the core hold while it is judged and taken.
///
/// Accepted: four times its length, and in a binary frame the 16 bytes of each reading that it stores. Four times the frame cannot cover
/// these: a small whole number is one byte on the wire and 16 bytes in the buffer, with its time. That buffer is bounded by itself, by the
/// credit. A text spells each of its readings at such length that nothing need stand beside it.
/// Refused: the words that say why, for the answer and for the record, for even one byte is refused with a reason. What a text held until
/// then is within four times its length; to judge a binary frame takes no memory at all, however long it is.
fn bytes_allowed(message: &[u8], verdict: &Result<u64, Refusal>) -> usize {
    let binary = !is_text(message);
    match verdict {
        Ok(readings) if binary => 4 * message.len() + 16 * *readings as usize,
        Ok(_) => 4 * message.len(),
        Err(_) if binary => WORDS_BYTES,
        Err(_) => 4 * message.len() + TEXT_WORDS_BYTES,
    }
}

/// Some 100 characters at most, twice.
const WORDS_BYTES: usize = 320;
/// Of JSON they name the field and quote what stands there, some 200 characters, and the reader's own stand beside them, with a place.
const TEXT_WORDS_BYTES: usize = 1024;

/// Sebastiano Vigna's SplitMix64: any seed is a good one.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// What leaves the structure whole where it hits a number: most injuries, or hardly a frame would reach the checks.
const IN_PLACE: [fn(&mut Chance) -> Vec<u8>; 12] = [
    |chance| chance.one_of(&INTS).to_be_bytes().into(),
    |chance| chance.one_of(&INTS).to_be_bytes().into(),
    |chance| (NOW_US + (chance.next() as i64 >> 20)).to_be_bytes().into(),
    |chance| (NOW_US + (chance.next() as i64 >> 20)).to_be_bytes().into(),
    |chance| chance.one_of(&FLOATS).to_le_bytes().into(),
    |chance| chance.one_of(&FLOATS).to_be_bytes().into(),
    |chance| chance.next().to_le_bytes().into(),
    |chance| (chance.next() as f64).to_le_bytes().into(),
    |chance| (chance.next() as i32 >> 12).to_le_bytes().into(),
    |chance| (chance.next() as i32 >> 2).to_le_bytes().into(),
    |chance| vec![chance.below(10) as u8],
    |_| Vec::new(),
];

const DAY_US: i64 = 86_400_000_000;
const INTS: [i64; 22] = [
    0,
    1,
    -1,
    127,
    128,
    i32::MAX as i64,
    i32::MIN as i64,
    i64::MAX,
    i64::MIN,
    1 << 53,
    (1 << 53) + 1,
    1 << 62,
    NOW_US,
    NOW_US + 1,
    NOW_US + DAY_US,
    NOW_US + DAY_US + 1,
    NOW_US - 30 * DAY_US,
    NOW_US - 30 * DAY_US - 1,
    -NOW_US,
    3,
    9,
    262_145,
];
const FLOATS: [f64; 10] =
    [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 5e-324, -2.2e-308, f64::MAX, f64::MIN, f64::EPSILON];
/// Heads of MessagePack: integers, floats, bins and arrays with lengths that lie, texts, maps, extensions, what is never used.
const HEADS: [&[u8]; 26] = [
    b"\x90",
    b"\x91",
    b"\x94",
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdd\x00\x00\x00\x00",
    b"\xc4\xff",
    b"\xc4\x00",
    b"\xc5\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc6\x80\x00\x00\x00",
    b"\xc0",
    b"\xc1",
    b"\xc2",
    b"\x80",
    b"\xdf\xff\xff\xff\xff",
    b"\xa1x",
    b"\xdb\xff\xff\xff\xff",
    b"\xc7\x02\x01ab",
    b"\xc9\xff\xff\xff\xff\x00",
    b"\xd4\x00\x00",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xca\x7f\xc0\x00\x00",
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
];
const WORDS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"1e400",
    b"-1e400",
    b"-0.0",
    b"5e-324",
    b"9007199254740993",
    b"18446744073709551616",
    b"NaN",
    b"[",
    b"{",
    b"[[[[[[[[",
    b"\"datapoints\":",
    b"\"timestamp\":",
    b"\"value\":",
    b"\"event_public_id\":",
    b"\"\\ud800\"",
    b"\"\\u0000\"",
    b"\"0001-01-01T00:00:00Z\"",
    b"\"9999-12-31T23:59:59.999999999+23:59\"",
    b"\"2027-01-15T08:00:00Z\"",
    b",",
    b"\xef\xbb\xbf",
    b"\xff",
];

/// One to four injuries to a message of the corpus, mostly to one of the first `sound`, which pass for a frame.
fn mutate(corpus: &[Vec<u8>], sound: usize, chance: &mut Chance) -> Vec<u8> {
    let among = if chance.below(8) > 0 { sound } else { corpus.len() };
    let mut message = corpus[chance.below(among)].clone();
    for _ in 0..chance.one_of(&[1, 1, 1, 2, 3, 4]) {
        injure(&mut message, corpus, chance);
    }
    message
}

fn injure(message: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut Chance) {
    let at = match chance.below(6) {
        0 => chance.below(message.len() + 1),
        _ => aim(message, chance),
    };
    let end = at + chance.below((message.len() - at).min(64) + 1);
    let put = |message: &mut Vec<u8>, bytes: &[u8]| {
        let end = (at + bytes.len()).min(message.len());
        message.splice(at..end, bytes.iter().copied());
    };
    match chance.below(11 + IN_PLACE.len()) {
        k @ 11.. => put(message, &IN_PLACE[k - 11](chance)),
        0 => message.truncate(at),
        1 => message.extend((0..chance.below(40)).map(|_| chance.next() as u8)),
        2 if at < message.len() => message[at] ^= 1 << chance.below(8),
        3 if at < message.len() => message[at] = chance.next() as u8,
        4 => message.insert(at, chance.next() as u8),
        5 => drop(message.drain(at..end)),
        6 => {
            let again = message[at..end].to_vec();
            message.splice(at..at, again);
        }
        7 => put(message, &chance.one_of(&INTS).to_le_bytes()[..chance.one_of(&[4, 8])]),
        8 => {
            let words = message.first().is_some_and(|&first| first < 0x80);
            let word = if words { chance.one_of(&WORDS) } else { chance.one_of(&HEADS) };
            match chance.below(2) {
                0 => put(message, word),
                _ => drop(message.splice(at..at, word.iter().copied())),
            }
        }
        9 => {
            let other = &corpus[chance.below(corpus.len())];
            let from = chance.below(other.len() + 1);
            message.truncate(at);
            message.extend(&other[from..]);
        }
        10 => {
            let nested = chance.one_of(&[0x91, 0x94, 0xdd, b'[', b'{']);
            message.splice(at..at, std::iter::repeat_n(nested, chance.below(300)));
        }
        _ => (),
    }
}

/// Where a number of a binary frame begins, or one inside a bin; anywhere when there is none.
fn aim(message: &[u8], chance: &mut Chance) -> usize {
    let from = chance.below(message.len() + 1);
    let found = message[from..].iter().position(|byte| matches!(byte, 0xc4 | 0xcb | 0xcf | 0xd3));
    match found.map(|found| from + found) {
        Some(at) if message[at] == 0xc4 => {
            let n = message.get(at + 1).map_or(0, |&n| usize::from(n));
            (at + 2 + 4 * chance.below(n / 4)).min(message.len())
        }
        Some(at) => at + 1,
        None => from,
    }
}

/// The golden frames of both implementations and what the fuzzer found worth keeping.
fn corpus() -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read(here.join("../tests/contract/frames/frames.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let unhex = |hex: &str| -> Vec<u8> { (0..hex.len()).step_by(2).map(|k| u8::from_str_radix(&hex[k..k + 2], 16).unwrap()).collect() };
    let mut corpus: Vec<Vec<u8>> = golden["frames"].as_array().unwrap().iter().map(|frame| unhex(frame["hex"].as_str().unwrap())).collect();
    let found = std::fs::read_to_string(here.join("tests/corpus.hex")).unwrap();
    corpus.extend(found.lines().map(unhex));
    corpus
}

fn hex(message: &[u8]) -> String {
    message.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Offers a message to a core and holds it to everything that is promised. The verdict's name, and the bytes that it made the core hold
/// beside readings (accepted) or words (refused).
fn check(message: &[u8]) -> (&'static str, usize) {
    let catalogue = catalogue();
    let mut core = core();
    let (verdict, peak) = peak_of(|| offer(&mut core, &catalogue, message));
    let allowed = bytes_allowed(message, &verdict);
    assert!(peak <= allowed, "{} bytes made it hold {peak}, {allowed} are allowed: {verdict:?}", message.len());
    hold_to(&verdict, &mut core, &catalogue, message);
    match verdict {
        Ok(readings) => ("accepted", peak.saturating_sub(16 * readings as usize)),
        Err(refusal) => (refusal.code.name(), peak),
    }
}

/// What a message is judged as.
fn kind_of(message: &[u8]) -> &'static str {
    match frame::peek(message) {
        _ if is_text(message) => "text",
        Ok((KIND_DATA, _)) => "data",
        Ok((KIND_GAP, _)) => "gap",
        Ok((KIND_QUALITY, _)) => "quality",
        Ok((KIND_PREVIEW, _)) => "preview",
        _ => "none",
    }
}

/// Every verdict that a short message of each kind can get: a kind of which the corpus holds only an old shape is accepted no more.
const REACHED: [(&str, &[&str]); 6] = [
    ("text", &["accepted", "malformed", "unknown_channel", "not_granted", "out_of_bounds"]),
    (
        "data",
        &["accepted", "malformed", "unknown_channel", "not_granted", "not_finite", "lengths_differ", "not_increasing", "out_of_bounds"],
    ),
    ("gap", &["accepted", "malformed", "unknown_channel", "not_granted", "out_of_bounds"]),
    ("quality", &["accepted", "malformed", "unknown_channel", "not_granted", "out_of_bounds"]),
    ("preview", &["accepted", "malformed", "unknown_channel", "not_granted", "not_finite", "out_of_bounds"]),
    ("none", &["malformed"]),
];

type Verdicts = BTreeMap<&'static str, BTreeMap<&'static str, u64>>;

/// Those of REACHED that are not there.
fn missed(verdicts: &Verdicts) -> Vec<(&'static str, &'static str)> {
    let met = |kind, verdict| verdicts.get(kind).is_some_and(|of_kind| of_kind.contains_key(verdict));
    let all = REACHED.iter().flat_map(|&(kind, reached)| reached.iter().map(move |&verdict| (kind, verdict)));
    all.filter(|&(kind, verdict)| !met(kind, verdict)).collect()
}

#[derive(Default)]
struct Tally {
    /// by kind
    verdicts: Verdicts,
    /// of bytes held beside the readings to bytes of the message, where it was accepted
    accepted_per_byte: f64,
    /// bytes held for a binary frame that was refused, whatever its length
    refused: usize,
    /// bytes held for a text that was refused, beyond four times its length
    text_refused: usize,
}

fn run(corpus: &[Vec<u8>], sound: usize, seed: u64, frames: std::ops::Range<u64>) -> Tally {
    let mut tally = Tally::default();
    for frame in frames {
        let message = mutate(corpus, sound, &mut Chance(seed ^ frame.wrapping_mul(0xd6e8_feb8_6659_fd93)));
        let checked = catch_unwind(AssertUnwindSafe(|| check(&message)));
        let Ok((verdict, peak)) = checked else {
            panic!("frame {frame} of WEBMACS_TEST_SEED={seed} broke a promise (above): {}", hex(&message));
        };
        *tally.verdicts.entry(kind_of(&message)).or_default().entry(verdict).or_default() += 1;
        match verdict {
            "accepted" => tally.accepted_per_byte = tally.accepted_per_byte.max(peak as f64 / message.len() as f64),
            _ if !is_text(&message) => tally.refused = tally.refused.max(peak),
            _ => tally.text_refused = tally.text_refused.max(peak.saturating_sub(4 * message.len())),
        }
    }
    tally
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn no_damaged_message_does_harm() {
    let frames = number("WEBMACS_TEST_FRAMES").unwrap_or(300_000);
    let seed = number("WEBMACS_TEST_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 >> 10);
    let (sound, broken): (Vec<_>, Vec<_>) = corpus().into_iter().partition(|message| check(message).0 != "malformed");
    let (corpus, sound) = (&[&sound[..], &broken].concat(), sound.len());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let share = |k: u64| frames * k / threads;
        let running: Vec<_> = (0..threads).map(|k| scope.spawn(move || run(corpus, sound, seed, share(k)..share(k + 1)))).collect();
        running.into_iter().map(|one| one.join().expect("a thread broke a promise")).collect()
    });
    let mut verdicts = Verdicts::new();
    for (kind, of_kind) in tallies.iter().flat_map(|tally| &tally.verdicts) {
        for (verdict, n) in of_kind {
            *verdicts.entry(kind).or_default().entry(verdict).or_default() += n;
        }
    }
    let accepted = tallies.iter().map(|tally| tally.accepted_per_byte).fold(0.0, f64::max);
    let refused = tallies.iter().map(|tally| tally.refused).max();
    let text_refused = tallies.iter().map(|tally| tally.text_refused).max();
    let held = serde_json::json!({"accepted_per_byte": accepted, "refused": refused, "text_refused_beyond": text_refused});
    println!("{}", serde_json::json!({"seed": seed, "frames": frames, "verdicts": verdicts, "bytes_held": held}));
    assert_eq!(verdicts.values().flat_map(BTreeMap::values).sum::<u64>(), frames);
    assert_eq!(missed(&verdicts), [], "the mutations do not reach every check of each kind: {verdicts:?}");
}

#[test]
fn every_message_of_the_corpus_keeps_the_promises() {
    let mut verdicts = Verdicts::new();
    for message in corpus() {
        *verdicts.entry(kind_of(&message)).or_default().entry(check(&message).0).or_default() += 1;
    }
    let holds = |kind| ["accepted", "malformed"].iter().all(|verdict| verdicts[kind].contains_key(verdict));
    assert!(
        ["text", "data", "gap", "quality", "preview"].into_iter().all(holds),
        "the corpus does not hold good and bad messages of each kind: {verdicts:?}"
    );
}

/// Bodies of every form, most of them good, and one of each kind of fault.
fn bodies() -> Vec<Vec<u8>> {
    let item =
        |k: u8, time: &str| format!("{{\"event_public_id\": \"00000000-0000-0000-0000-0000000000{k:02x}\", \"value\": -1.5e3{time}}}");
    let timed = ", \"timestamp\": \"2027-01-15T08:00:00.5+01:00\"";
    let items = [item(1, ""), item(1, timed), item(2, ""), item(9, "")];
    let lines = "m,a=b,c=d\\ e f=1,g=-2.5e3,h=7i,i=8u,j=t 1800000000000000000\nm,c=d\\ e,a=b f=2 1800000000000001000\n# x\n\n\
                 m f=\"a \\\" b\",g=9007199254740993i,h=3\r\nm\\,x,t=\\= f=F 5";
    let texts = [items[0].clone(), format!("{{\"datapoints\": [{}]}}", items.join(",")), items.join("\n"), lines.into()];
    texts.map(String::into_bytes).to_vec()
}

const FORMS: [Form; 5] =
    [Form::One, Form::Json, Form::Lines, Form::LineProtocol(Unit::Nanoseconds), Form::LineProtocol(Unit::Microseconds(3_600_000_000))];

/// Reads a body and offers what it held to a fresh core. How many readings were taken and refused; None: the body was refused whole.
fn offer_body(form: Form, body: &[u8]) -> Option<(u64, usize)> {
    let (read, peak) = peak_of(|| batch::read(form, body));
    assert!(peak <= 100 * body.len() + 4096, "{} bytes made it hold {peak}", body.len());
    let read = match read {
        Ok(read) => read,
        Err(refusal) => {
            assert!(!refusal.detail.is_empty() && !refusal.detail.contains("internal fault"), "{refusal:?}");
            return None;
        }
    };
    let catalogue = catalogue();
    let mut core = core();
    let names = read.channels.iter().filter_map(|channel| match channel {
        Channel::Series(name) => Some((name.clone(), 1 + (name.len() % 3) as i32)),
        Channel::PublicId(_) => None,
    });
    let names = names.collect();
    let standpoint = Standpoint { now_us: NOW_US, catalogue: &catalogue, names: Some(&names), named: true };
    let BatchVerdict::Taken(taken, refused) = core.accept_batch(1, 0, &read, standpoint).unwrap() else { panic!("all of it is owned") };
    assert_eq!(taken as usize + refused.count, read.readings.len() + read.refused.count);
    assert!(refused.listed.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    assert!(refused.listed.iter().all(|(_, refusal)| !refusal.detail.contains("internal fault")), "{refused:?}");
    let kept: usize = parts::drain(&mut core, &catalogue).iter().flat_map(parts::rows).map(|row| row.readings.len()).sum();
    assert!(kept as u64 <= taken && (kept > 0) == (taken > 0), "{taken} were taken, {kept} kept");
    Some((taken, refused.count))
}

#[test]
fn no_damaged_body_does_harm() {
    let corpus = bodies();
    let (mut taken, mut refused, mut whole) = (0, 0, 0);
    for seed in 0..number("WEBMACS_TEST_FRAMES").unwrap_or(300_000) / 10 {
        let mut chance = Chance(seed.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let body = mutate(&corpus, corpus.len(), &mut chance);
        match offer_body(FORMS[chance.below(FORMS.len())], &body) {
            Some((good, bad)) => (taken, refused) = (taken + good, refused + bad),
            None => whole += 1,
        }
    }
    assert!(taken > 1000 && refused > 1000 && whole > 1000, "{taken} taken, {refused} refused, {whole} refused whole");
}

#[test]
fn the_longest_bodies_hold_a_bounded_part_of_memory() {
    for (form, begin, part) in [
        (Form::LineProtocol(Unit::Nanoseconds), "m ", "f=1,"),
        (Form::LineProtocol(Unit::Nanoseconds), "", "\n"),
        (Form::LineProtocol(Unit::Nanoseconds), "", "x\n"),
        (Form::LineProtocol(Unit::Nanoseconds), "m f=", "\\"),
        (Form::LineProtocol(Unit::Nanoseconds), "m,a=", "\\,"),
        (Form::LineProtocol(Unit::Nanoseconds), "m f=\"", "x\n"),
        (Form::Lines, "", "1\n"),
        (Form::Json, "{\"datapoints\": [", "1,"),
        (Form::Json, "{\"datapoints\": ", "["),
        (Form::One, "", "{\"value\":"),
    ] {
        let body = format!("{begin}{}", part.repeat((batch::BATCH_BYTES_MAX - begin.len()) / part.len()));
        let (_, peak) = peak_of(|| batch::read(form, body.as_bytes()).map(|_| ()));
        assert!(peak <= 10 * body.len(), "{begin:?} and many {part:?} made it hold {peak} bytes");
    }
}

#[test]
fn a_long_name_or_text_is_not_copied_until_memory_is_gone() {
    for n in [1_000, 100_000, 4_000_000] {
        for (quote, escape) in [("", ""), ("\\n", ""), ("", "\\u00e9")] {
            let long = format!("{quote}{}{escape}", "n".repeat(n));
            for text in [
                format!("{{\"{long}\": 1}}"),
                format!("{{\"datapoints\": [{{\"{long}\": 1}}]}}"),
                format!("{{\"datapoints\": [{{\"event_public_id\": \"{long}\"}}]}}"),
                format!("{{\"datapoints\": [{{\"timestamp\": \"{long}\"}}]}}"),
                format!("{{\"datapoints\": [{{\"value\": \"{long}\"}}]}}"),
                format!("{{\"datapoints\": \"{long}\"}}"),
                format!("\"{long}\""),
            ] {
                assert_eq!(check(text.as_bytes()).0, "malformed");
            }
        }
    }
}

#[test]
fn a_frame_of_small_numbers_or_of_many_columns_holds_what_its_readings_need() {
    let head = |columns: u32| [&b"\x94\x04\x01\xcf\x00\x06\x65\x17\x28\x98\x80\x00\xdd"[..], &columns.to_be_bytes()].concat();
    let numbers = [&head(1)[..], b"\x94\x01\xcf\x00\x06\x65\x17\x28\x98\x80\x00\x01\xdd\x00\x04\x00\x00", &[7; 262_144]].concat();
    assert_eq!(check(&numbers).0, "accepted");
    let column = b"\x94\x01\xcf\x00\x06\x65\x17\x28\x98\x80\x00\x01\x91\x07";
    assert_eq!(check(&[&head(200_000)[..], &column.repeat(200_000)].concat()).0, "too_large");
    assert_eq!(check(&[&head(90_000)[..], &column.repeat(90_000)].concat()).0, "malformed");
}

#[test]
fn many_previews_hold_a_bounded_part_of_memory() {
    let preview = b"\x93\x01\xcf\x00\x06\x65\x17\x28\x98\x80\x00\x07";
    for n in [1, 5, 0x1_0001, 0x4_0000] {
        let frame = [&b"\x92\x07\xdd"[..], &u32::to_be_bytes(n), &preview.repeat(n as usize)].concat();
        assert_eq!(check(&frame).0, "accepted");
    }
}

#[test]
fn many_items_of_a_text_hold_a_bounded_part_of_memory() {
    let item = r#"{"event_public_id":"00000000-0000-0000-0000-000000000001","value":1}"#;
    for n in [1, 5, 33, 4_097, 60_000] {
        assert_eq!(check(format!("{{\"datapoints\":[{}]}}", vec![item; n].join(",")).as_bytes()).0, "accepted");
    }
}
