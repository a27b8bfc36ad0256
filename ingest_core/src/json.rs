//! JSON and RFC 3339 as they are written and read here: by hand, into one growing text, nothing allocated per value.

use crate::catalogue::PublicId;
use crate::run::DAY_US;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// "0192f0c4-....": lowercase and hyphenated.
pub fn push_public_id(out: &mut Vec<u8>, id: &PublicId) {
    out.push(b'"');
    for (k, byte) in id.iter().enumerate() {
        if matches!(k, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    out.push(b'"');
}

pub fn read_public_id(text: &str) -> Option<PublicId> {
    let text = text.as_bytes();
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|&k| text[k] != b'-') {
        return None;
    }
    let mut digits = text.iter().enumerate().filter(|(k, _)| !matches!(k, 8 | 13 | 18 | 23)).map(|(_, c)| (*c as char).to_digit(16));
    let mut id = [0; 16];
    for byte in &mut id {
        *byte = (digits.next()?? << 4 | digits.next()??) as u8;
    }
    Some(id)
}

/// The shortest text that reads back the same; null for what is no number of JSON.
pub fn push_float(out: &mut Vec<u8>, value: f64) {
    match value.is_finite() {
        true => out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes()),
        false => out.extend_from_slice(b"null"),
    }
}

pub fn push_int(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_padded(out: &mut Vec<u8>, value: i64, width: usize) {
    let from = out.len();
    push_int(out, value);
    for _ in out.len() - from..width {
        out.insert(from, b'0');
    }
}

/// "2026-11-23T14:32:07.123456Z". `t_us` lies between the years 1 and 9999.
pub fn push_time(out: &mut Vec<u8>, t_us: i64) {
    let (year, month, day) = date(t_us.div_euclid(DAY_US));
    let in_day = t_us.rem_euclid(DAY_US);
    let seconds = in_day / 1_000_000;
    let parts = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (seconds / 3600, 2, b':'),
        (seconds / 60 % 60, 2, b':'),
        (seconds % 60, 2, b'.'),
    ];
    out.push(b'"');
    for (value, width, then) in parts {
        push_padded(out, value, width);
        out.push(then);
    }
    push_padded(out, in_day % 1_000_000, 6);
    out.extend_from_slice(b"Z\"");
}

/// µs since 1970 of an RFC 3339 text with a zone; None when it is none. Digits beyond the µs round to it.
pub fn read_time(text: &str) -> Option<i64> {
    let text = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.iter().try_fold(0, |so_far, digit| digit.is_ascii_digit().then(|| so_far * 10 + i64::from(digit - b'0')))
    };
    let stands = |at: usize, one_of: &[u8]| text.get(at).is_some_and(|c| one_of.contains(c));
    if !(stands(4, b"-") && stands(7, b"-") && stands(10, b"Tt ") && stands(13, b":") && stands(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1 || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction_us, zone) = match stands(19, b".") {
        true => {
            let n = text[20..].iter().take_while(|c| c.is_ascii_digit()).count();
            if n == 0 || n > 9 {
                return None;
            }
            let ns = number(20, 20 + n)? * 10_i64.pow(9 - n as u32);
            ((ns + 500) / 1000, 20 + n)
        }
        false => (0, 19),
    };
    let offset_minutes = match text.get(zone..)? {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(zone + 1, zone + 3)?, number(zone + 4, zone + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = hour * 3600 + minute * 60 + second - offset_minutes * 60;
    Some(days_before(year, month, day) * DAY_US + seconds * 1_000_000 + fraction_us)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date. The year is counted from March, so that the leap day comes last.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_month = (153 * month + 2) / 5; // months from March are 31, 30, 31, 30, 31 days, twice over
    let before_year = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    before_year + before_month + day - 1 - DAYS_TO_1970
}

/// From March 1 of the year 0 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;
/// 400 years
const ERA_DAYS: i64 = 146_097;

/// (year, month, day) of a number of days since 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let (era, in_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + later, month, day)
}
