//! The simple JSON form of readings: {"datapoints": [{"event_public_id", "value", "timestamp"?}]}. Strict: an unknown name, a name
//! given twice, a time without a zone are refused, and an item is an object.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::Deserialize;

use crate::catalogue::PublicId;
use crate::error::{Code, Refusal};
use crate::json::{read_public_id, read_time};
use crate::validate;

/// One reading as it came; without a time it was taken now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    pub event: PublicId,
    pub value: f64,
    pub t_us: Option<i64>,
}

/// The items of a message, at most so many: as `Item`, or as whatever else reads one.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8], allowed: usize) -> Result<Vec<T>, Refusal> {
    let position = Cell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let items = Items { position: &position, allowed, kind: PhantomData };
    let read = reader.deserialize_any(items).and_then(|items| reader.end().map(|()| items));
    read.map_err(|wrong| {
        let refusal = Refusal::new(Code::Malformed, wrong.to_string());
        match position.get() {
            Some(k) if k == allowed => validate::check_count(k + 1, allowed).err().unwrap_or(refusal),
            Some(k) => refusal.at(k),
            None => refusal,
        }
    })
}

/// Reads the message; `position` is the item that is being read.
struct Items<'c, T> {
    position: &'c Cell<Option<usize>>,
    allowed: usize,
    kind: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the array `datapoints`")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(text_instead(&self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<T>, A::Error> {
        let mut items = None;
        while let Some(Text(name)) = map.next_key()? {
            match &*name {
                "datapoints" if items.is_none() => {
                    items = Some(
                        map.next_value_seed(List { position: self.position, allowed: self.allowed, kind: PhantomData })
                            .map_err(within("datapoints"))?,
                    )
                }
                "datapoints" => return Err(Error::duplicate_field("datapoints")),
                other => return Err(Error::unknown_field(start(other), &["datapoints"])),
            }
        }
        items.ok_or_else(|| Error::missing_field("datapoints"))
    }
}

struct List<'c, T> {
    position: &'c Cell<Option<usize>>,
    allowed: usize,
    kind: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for List<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Vec<T>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of readings")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(text_instead(&self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        self.position.set(Some(0));
        while let Some(item) = list.next_element()? {
            if items.len() == self.allowed {
                return Err(A::Error::custom("there are too many items"));
            }
            items.push(item);
            self.position.set(Some(items.len()));
        }
        self.position.set(None);
        Ok(items)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Item, D::Error> {
        reader.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `event_public_id`, `value` and maybe `timestamp`")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(text_instead(&self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        const NAMES: [&str; 3] = ["event_public_id", "value", "timestamp"];
        let (mut event, mut value, mut t_us) = (None, None, None);
        while let Some(Text(name)) = map.next_key()? {
            match &*name {
                "event_public_id" if event.is_none() => {
                    let Text(text) = map.next_value().map_err(within("event_public_id"))?;
                    event = Some(read_public_id(&text).ok_or_else(|| A::Error::custom("event_public_id: it is no UUID"))?);
                }
                "value" if value.is_none() => value = Some(map.next_value::<Number>().map_err(within("value"))?.0),
                "timestamp" if t_us.is_none() => {
                    t_us = Some(match map.next_value::<Option<Text<'de>>>().map_err(within("timestamp"))? {
                        Some(Text(text)) => {
                            Some(read_time(&text).ok_or_else(|| A::Error::custom("timestamp: it is no RFC 3339 time with a zone"))?)
                        }
                        None => None,
                    });
                }
                other if NAMES.contains(&other) => return Err(A::Error::custom(format!("{other}: it is given twice"))),
                other => {
                    let unknown = A::Error::unknown_field(start(other), &NAMES);
                    map.next_value::<IgnoredAny>()?;
                    return Err(unknown);
                }
            }
        }
        let event = event.ok_or_else(|| A::Error::missing_field("event_public_id"))?;
        let value = value.ok_or_else(|| A::Error::missing_field("value"))?;
        Ok(Item { event, value, t_us: t_us.flatten() })
    }
}

/// What is wrong, with the name of the field in which it is.
fn within<E: Error>(field: &'static str) -> impl Fn(E) -> E {
    move |wrong| E::custom(format!("{field}: {wrong}"))
}

/// Of a name that nobody knows its start is enough: a refusal does not copy what a stranger sent.
fn start(name: &str) -> &str {
    const NAME_CHARS_MAX: usize = 40;
    name.char_indices().nth(NAME_CHARS_MAX).map_or(name, |(end, _)| &name[..end])
}

/// Serde would quote the whole text; so does serde_json unless it is asked for any kind of value.
fn text_instead<'de, E: Error>(expected: &impl Visitor<'de>) -> E {
    E::invalid_type(Unexpected::Other("text"), expected)
}

/// A text, borrowed where JSON did not escape anything.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        reader.deserialize_str(TextVisitor)
    }
}

struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Number, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number that a float64 holds")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Number, E> {
                Err(text_instead(&self))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                whole(value.unsigned_abs(), value as f64)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                whole(value, value as f64)
            }
        }
        reader.deserialize_any(NumberVisitor)
    }
}

fn whole<E: Error>(magnitude: u64, value: f64) -> Result<Number, E> {
    match magnitude <= 1 << 53 {
        true => Ok(Number(value)),
        false => Err(E::custom("it is an integer beyond 2^53, which a float64 does not hold")),
    }
}
