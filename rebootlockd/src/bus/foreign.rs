//! Message bodies as anybody on the bus may send them, for property tests.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use zbus::message::{Builder, Message};
use zbus::wire::{Structure, StructureBuilder};
use zbus::{ObjectPath, Variant};

/// A value of any type.
#[derive(Debug, Clone)]
pub(crate) enum Foreign {
    Small(u8),
    Flag(bool),
    Count(u32),
    Number(i64),
    Big(u64),
    Real(f64),
    Text(String),
    Path,
    List(Vec<String>),
    Inside(Box<Foreign>),
    Several(Vec<Foreign>),
}

impl Foreign {
    fn variant(&self) -> Variant<'static> {
        match self {
            Self::Small(value) => Variant::from(*value),
            Self::Flag(value) => Variant::from(*value),
            Self::Count(value) => Variant::from(*value),
            Self::Number(value) => Variant::from(*value),
            Self::Big(value) => Variant::from(*value),
            Self::Real(value) => Variant::from(*value),
            Self::Text(value) => Variant::from(value.clone()),
            Self::Path => Variant::from(ObjectPath::from_static_str("/a/b").unwrap()),
            Self::List(values) => Variant::from(values.clone()),
            Self::Inside(value) => Variant::Variant(Box::new(value.variant())),
            Self::Several(values) => Variant::from(structure(values)),
        }
    }
}

fn structure(values: &[Foreign]) -> Structure<'static> {
    let fields = values.iter().map(Foreign::variant);
    fields.fold(StructureBuilder::new(), StructureBuilder::append_field).build().unwrap()
}

/// The message with these values as its body, each an argument of its own.
pub(crate) fn body(message: Builder<'_>, values: &[Foreign]) -> Message {
    let message = message.sender(":1.7");
    if values.is_empty() { message.build(&()) } else { message.build(&structure(values)) }.unwrap()
}

/// Any text that a bus carries.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z_:/. -]{0,20}", any::<String>().prop_map(|text| text.replace('\0', ""))]
}

/// Any value.
pub(crate) fn anything() -> impl Strategy<Value = Foreign> {
    let one = prop_oneof![
        any::<u8>().prop_map(Foreign::Small),
        any::<bool>().prop_map(Foreign::Flag),
        any::<u32>().prop_map(Foreign::Count),
        any::<i64>().prop_map(Foreign::Number),
        any::<u64>().prop_map(Foreign::Big),
        any::<f64>().prop_map(Foreign::Real),
        text().prop_map(Foreign::Text),
        Just(Foreign::Path),
        prop::collection::vec(text(), 0..3).prop_map(Foreign::List),
    ];
    one.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|value| Foreign::Inside(Box::new(value))),
            prop::collection::vec(inner, 1..4).prop_map(Foreign::Several),
        ]
    })
}
