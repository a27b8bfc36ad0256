//! Compiled rules of one event. Every reading is seen, in order; only what fired or cleared comes out.

use crate::run::Extremes;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {
    Gt(f64),
    Lt(f64),
    Gte(f64),
    Lte(f64),
    Eq(f64),
    /// bounds included
    Between(f64, f64),
    NotBetween(f64, f64),
}

impl Test {
    /// None for an unknown operator, a threshold missing or one too many.
    pub fn compile(operator: &str, threshold: f64, upper: Option<f64>) -> Option<Test> {
        Some(match (operator, upper) {
            ("gt", None) => Test::Gt(threshold),
            ("lt", None) => Test::Lt(threshold),
            ("gte", None) => Test::Gte(threshold),
            ("lte", None) => Test::Lte(threshold),
            ("eq", None) => Test::Eq(threshold),
            ("between", Some(upper)) => Test::Between(threshold, upper),
            ("not_between", Some(upper)) => Test::NotBetween(threshold, upper),
            _ => return None,
        })
    }

    #[inline]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Test::Gt(threshold) => value > threshold,
            Test::Lt(threshold) => value < threshold,
            Test::Gte(threshold) => value >= threshold,
            Test::Lte(threshold) => value <= threshold,
            Test::Eq(threshold) => value == threshold,
            Test::Between(low, high) => low <= value && value <= high,
            Test::NotBetween(low, high) => value < low || high < value,
        }
    }

    /// Whether the test holds for every value between the extremes (true), for none (false), or that must be looked up (None).
    fn settled(self, Extremes { min, max }: Extremes) -> Option<bool> {
        let (all, none) = match self {
            Test::Gt(_) | Test::Gte(_) => (self.holds(min), !self.holds(max)),
            Test::Lt(_) | Test::Lte(_) => (self.holds(max), !self.holds(min)),
            Test::Eq(threshold) => (min == threshold && max == threshold, threshold < min || max < threshold),
            Test::Between(low, high) => (low <= min && max <= high, max < low || high < min),
            Test::NotBetween(low, high) => (max < low || high < min, low <= min && max <= high),
        };
        match (all, none) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    pub fired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    pub id: i32,
    pub test: Test,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    pub rule: i32,
    pub event: i32,
    pub fired: bool,
    pub t_us: i64,
    pub value: f64,
}

/// Shows the rules of `event` one more reading.
#[inline]
pub fn step(rules: &mut [Rule], event: i32, t_us: i64, value: f64, out: &mut Vec<Transition>) {
    for rule in rules {
        let holds = rule.test.holds(value);
        if holds != rule.state.fired {
            rule.state.fired = holds;
            out.push(Transition { rule: rule.id, event, fired: holds, t_us, value });
        }
    }
}

/// Shows the rules a stretch of readings, in order. Its extremes settle most rules without a look at a single reading.
pub fn scan(rules: &mut [Rule], event: i32, times: &[i64], values: &[f64], out: &mut Vec<Transition>) {
    if rules.is_empty() || values.is_empty() {
        return;
    }
    let extremes = Extremes::of(values);
    if rules.iter().all(|rule| rule.test.settled(extremes) == Some(rule.state.fired)) {
        return;
    }
    let begun = out.len();
    for rule in rules.iter_mut().filter(|rule| rule.test.settled(extremes) != Some(rule.state.fired)) {
        for (&t_us, &value) in times.iter().zip(values) {
            step(std::slice::from_mut(rule), event, t_us, value, out);
        }
    }
    out[begun..].sort_by_key(|transition| transition.t_us); // rule by rule -> as they happened; stable, so rules keep their order
}
