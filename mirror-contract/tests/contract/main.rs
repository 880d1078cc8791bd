//! The contract from outside: tables and properties for each of its rules.

mod answer;
mod namespace;
mod naming;
mod placeholder;
mod query;
mod reference;
mod rewrite_target;
mod rules;
mod support;
