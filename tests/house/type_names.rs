//! A type's name is unique in the crate, so that the name says what the type is without its module.
//!
//! Structs, enums, unions, traits and type aliases count, also in functions and in macros. Types that are compiled only
//! for tests or for another system than unix do not count, and neither do the associated types of traits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use quote::ToTokens as _;
use syn::Item;

use crate::modules::{module_of, sources};
use crate::rings::{ModulePath, attributes, is_for_tests, without_texts};

/// The modules of types, by type name.
type Definitions = BTreeMap<String, Vec<String>>;

/// Whether an item is compiled only for tests, or for another system than unix.
fn is_left_out(item: &Item) -> bool {
    let is_for_others = attributes(item).iter().any(|attribute| {
        let text = attribute.meta.to_token_stream().to_string();
        text.starts_with("cfg") && (text.contains("not (unix)") || text.contains("windows"))
    });
    is_for_others || is_for_tests(attributes(item))
}

/// Adds the types that `tokens` define.
fn add_types(tokens: &[String], module: &str, found: &mut Definitions) {
    // For each open brace: whether a trait or an `impl` has it, where `type` is an associated type.
    let (mut braces, mut is_before_body) = (Vec::new(), false);
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "impl" | "trait"
                if at == 0 || matches!(&*tokens[at - 1], "}" | "{" | ";" | "pub" | "unsafe" | ")" | "]") =>
            {
                is_before_body = true;
            }
            "{" => braces.push(std::mem::take(&mut is_before_body)),
            "}" => drop(braces.pop()),
            _ => {}
        }
        let is_type = match token.as_str() {
            "struct" | "enum" | "union" | "trait" => true,
            "type" => braces.last() != Some(&true),
            _ => false,
        };
        if let Some(name) = tokens.get(at + 1).filter(|name| is_type && name.starts_with(char::is_uppercase))
        {
            found.entry(name.clone()).or_default().push(module.to_owned());
        }
    }
}

/// Adds the types of `items`, and the modules in files of their own that are left out.
fn add_items(items: &[Item], here: &[String], found: &mut Definitions, left_out: &mut Vec<ModulePath>) {
    for item in items {
        match item {
            Item::Mod(inner) => {
                let inside = [here, &[inner.ident.to_string()]].concat();
                match &inner.content {
                    _ if is_left_out(item) => left_out.push(inside),
                    Some((_, items)) => add_items(items, &inside, found, left_out),
                    None => {}
                }
            }
            _ if is_left_out(item) => {}
            other => {
                add_types(&tokens(&other.to_token_stream().to_string()), &here.join("::"), found);
            }
        }
    }
}

/// Words and punctuation of code, without its texts.
fn tokens(code: &str) -> Vec<String> {
    let code = without_texts(code).replace("'{'", "").replace("'}'", "");
    let mut tokens: Vec<String> = Vec::new();
    let mut is_in_word = false;
    for character in code.chars() {
        let is_word = character.is_alphanumeric() || character == '_';
        match tokens.last_mut() {
            Some(word) if is_word && is_in_word => word.push(character),
            _ if !character.is_whitespace() => tokens.push(character.to_string()),
            _ => {}
        }
        is_in_word = is_word;
    }
    tokens
}

/// The names that several types of `files` have, with the modules of the types.
fn repeated(files: &[(ModulePath, String)]) -> Definitions {
    let (mut left_out, mut by_file) = (Vec::new(), Vec::new());
    for (path, text) in files {
        let mut found = Definitions::new();
        add_items(&syn::parse_file(text).unwrap().items, path, &mut found, &mut left_out);
        by_file.push((path, found));
    }
    by_file.retain(|(path, _)| !left_out.iter().any(|out: &ModulePath| path.starts_with(out)));
    let mut all = Definitions::new();
    for (name, modules) in by_file.into_iter().flat_map(|(_, found)| found) {
        all.entry(name).or_default().extend(modules);
    }
    all.retain(|_, modules| modules.len() > 1);
    all
}

/// The canary: a repeated name is found in every place, and other names are not reported.
#[test]
fn a_repeated_name_is_found_wherever_its_types_are() {
    let of = |one: &str, other: &str| {
        let file = |name: &str, text: &str| (vec![name.to_owned()], text.to_owned());
        repeated(&[file("one", one), file("other", other)]).into_keys().collect::<Vec<_>>()
    };
    for other in [
        "enum Row {}",
        "pub(crate) trait Row: Sized {}",
        "pub type Row<'a> = &'a str;",
        "mod inner { pub union Row { a: u8 } }",
        "impl Table { fn f(it: impl Fn()) { struct Row; } }",
        "fn f() -> impl Sized { enum Row {} }",
        "macro_rules! row { () => { pub type Row = u8; } }",
        "self_cell!(struct Row { owner: u8 });",
    ] {
        assert_eq!(of("struct Row;", other), ["Row"], "{other}");
    }
    for other in [
        "impl Iterator for Rows { type Row = u8; } trait T { type Row; }",
        "#[cfg(test)] mod tests { struct Row; }",
        "#[cfg(all(test, unix))] struct Row;",
        "#[cfg(not(unix))] mod elsewhere { struct Row; }",
        "/// struct Row;\nfn f() { g(\"struct Row;\") } struct Rows; use one::Row;",
    ] {
        assert!(of("struct Row;", other).is_empty(), "{other}");
    }
    assert_eq!(of("struct Row; #[cfg(test)] mod other;", "struct Row;"), ["Row"]);
    assert!(of("#[cfg(test)] mod tests; struct Row;", "").is_empty());
}

#[test]
fn a_type_has_a_name_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let files: Vec<(ModulePath, String)> =
        found.iter().map(|file| (module_of(&root, file), fs::read_to_string(file).unwrap())).collect();
    let found = repeated(&files);
    assert!(found.is_empty(), "names of several types, and the modules of the types: {found:#?}");
}
