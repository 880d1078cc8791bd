//! The sizes of a WebAssembly module's parts.

use std::collections::HashMap;

use wasmparser::{KnownCustom, Name, Parser, Payload, TypeRef};

/// The sizes of a module, in bytes.
pub struct Sizes {
    /// The whole file.
    pub total: usize,
    /// The section with the code.
    pub code: usize,
    /// The section with the data.
    pub data: usize,
    /// The functions that have a name.
    pub functions: Vec<Function>,
}

/// A function of a module.
pub struct Function {
    /// Its name, mangled.
    pub name: String,
    /// The size of its body, in bytes.
    pub bytes: usize,
}

impl Sizes {
    /// Measures a module.
    ///
    /// # Errors
    /// When it is not one.
    pub fn of(module: &[u8]) -> anyhow::Result<Self> {
        let mut sizes = Self {
            total: module.len(),
            code: 0,
            data: 0,
            functions: Vec::new(),
        };
        // Imported functions come first in the numbering of functions, and have no body.
        let mut next = 0_u32;
        let mut bodies = HashMap::new();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        next += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                    }
                }
                Payload::CodeSectionStart { size, .. } => sizes.code = size.try_into()?,
                Payload::CodeSectionEntry(body) => {
                    bodies.insert(next, body.range().len());
                    next += 1;
                }
                Payload::DataSection(data) => sizes.data = data.range().len(),
                Payload::CustomSection(custom) => {
                    let KnownCustom::Name(names) = custom.as_known() else {
                        continue;
                    };
                    for names in names {
                        let Name::Function(names) = names? else {
                            continue;
                        };
                        for name in names {
                            let name = name?;
                            if let Some(&bytes) = bodies.get(&name.index) {
                                let name = name.name.to_owned();
                                sizes.functions.push(Function { name, bytes });
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_under_their_own_names() {
        let module = wat::parse_str(
            r#"(module
                (import "a" "b" (func $imported))
                (memory 1)
                (func $small)
                (func $large (call $imported) (call $small) (call $small))
                (data (i32.const 0) "0123456789"))"#,
        )
        .unwrap();
        let sizes = Sizes::of(&module).unwrap();
        let functions: Vec<_> = sizes
            .functions
            .iter()
            .map(|function| (function.name.as_str(), function.bytes))
            .collect();
        // No locals and an end: two bytes. A call: two more.
        assert_eq!(functions, [("small", 2), ("large", 8)]);
        assert_eq!(sizes.total, module.len());
        assert!(sizes.code > 10 && sizes.data > 10);
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        assert!(Sizes::of(b"no module").is_err());
    }
}
