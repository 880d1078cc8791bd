//! Reading JSON without ever failing because of its shape.
//!
//! A watch stream breaks off at an object that cannot be read, and starts again with the same object. So what has another
//! type than expected is skipped and counts as absent. Only text that is not JSON is an error. What nobody asked for is
//! skipped without keeping it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Reads these fields of an object into the fields of a struct, and skips all others.
macro_rules! fields {
    ($type:ty { $($name:pat => $field:ident),+ $(,)? }) => {
        impl $crate::cluster::lenient::Lenient for $type {
            fn take_field<'de, A: ::serde::de::MapAccess<'de>>(
                &mut self,
                name: &str,
                object: &mut A,
            ) -> Result<(), A::Error> {
                match name {
                    $($name => self.$field = $crate::cluster::lenient::value(object)?,)+
                    _ => $crate::cluster::lenient::skip(object)?,
                }
                Ok(())
            }
        }
    };
}
pub(super) use fields;

/// Whether there is a text, a number or a flag.
#[derive(Clone, Copy, Debug, Default)]
pub struct Present(pub bool);

/// A value that takes what it understands. Each method takes a value of one JSON type; all do nothing by default.
pub trait Lenient: Default {
    /// Takes `true` or `false`.
    fn take_flag(&mut self, _: bool) {}

    /// Takes a whole number.
    fn take_integer(&mut self, _: i64) {}

    fn take_text(&mut self, _: &str) {}

    /// Takes the elements of a list.
    fn take_list<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    /// Takes one field of an object; must read its value with [`value`] or [`skip`]. The last of equal names counts.
    fn take_field<'de, A: MapAccess<'de>>(
        &mut self,
        _: &str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        skip(object)
    }
}

/// Reads the value of the field that was just named.
pub fn value<'de, T: Lenient, A: MapAccess<'de>>(object: &mut A) -> Result<T, A::Error> {
    object.next_value_seed(Read(PhantomData))
}

/// Skips the value of the field that was just named.
pub fn skip<'de, A: MapAccess<'de>>(object: &mut A) -> Result<(), A::Error> {
    object.next_value::<IgnoredAny>().map(|_| ())
}

/// Reads a whole value.
pub fn read<'de, T: Lenient, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Read(PhantomData).deserialize(deserializer)
}

impl Lenient for bool {
    fn take_flag(&mut self, flag: bool) {
        *self = flag;
    }
}

/// Whatever is there, it is there.
impl Lenient for Present {
    fn take_flag(&mut self, _: bool) {
        self.0 = true;
    }

    fn take_integer(&mut self, _: i64) {
        self.0 = true;
    }

    fn take_text(&mut self, _: &str) {
        self.0 = true;
    }
}

impl Lenient for Option<i64> {
    fn take_integer(&mut self, integer: i64) {
        *self = Some(integer);
    }
}

impl Lenient for String {
    fn take_text(&mut self, text: &str) {
        text.clone_into(self);
    }
}

impl<T: Lenient> Lenient for Vec<T> {
    fn take_list<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element_seed(Read(PhantomData))? {
            self.push(element);
        }
        Ok(())
    }
}

struct Read<T>(PhantomData<T>);

impl<'de, T: Lenient> DeserializeSeed<'de> for Read<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T: Lenient> Read<T> {
    fn with<E>(take: impl FnOnce(&mut T) -> Result<(), E>) -> Result<T, E> {
        let mut value = T::default();
        take(&mut value)?;
        Ok(value)
    }
}

impl<'de, T: Lenient> Visitor<'de> for Read<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<T, E> {
        Self::with(|value| {
            value.take_flag(flag);
            Ok(())
        })
    }

    fn visit_i64<E>(self, integer: i64) -> Result<T, E> {
        Self::with(|value| {
            value.take_integer(integer);
            Ok(())
        })
    }

    fn visit_u64<E>(self, integer: u64) -> Result<T, E> {
        Self::with(|value| {
            if let Ok(integer) = i64::try_from(integer) {
                value.take_integer(integer);
            }
            Ok(())
        })
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Self::with(|value| {
            value.take_text(text);
            Ok(())
        })
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_none<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        Self::with(|value| value.take_list(&mut list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<T, A::Error> {
        Self::with(|value| {
            while let Some(name) = object.next_key::<String>()? {
                value.take_field(&name, &mut object)?;
            }
            Ok(())
        })
    }
}
