//! The page `docs/contract.md`, written from the WIT by `cargo run -p wharf-tests --bin contract`.

use std::fmt::Write;

use wit_parser::{
    Docs, Function, Handle, InterfaceId, Resolve, Type, TypeDef, TypeDefKind, TypeId, WorldItem,
};

use crate::guests::root;

/// The name of the contract's package.
const PACKAGE: &str = "server";

const HEAD: &str = "# The contract

<!-- Written by `cargo run -p wharf-tests --bin contract` from wit/inet-event-proc.wit. Change \
that, and run it again. -->

What a plugin exports and what it may import, from \
[wit/inet-event-proc.wit](../wit/inet-event-proc.wit). Names are those of the
WIT; each language writes them its own way: `on-read` is `on_read` in Rust, C and Python, `onRead` \
in JavaScript and TypeScript, `OnRead`
in Go. [Languages](languages/README.md) has a page for each.

A released contract is frozen in [wit/released](../wit/released): a component that was built from \
one
runs on every later host. No interface, function or type of it changes or goes. Each addition is a
new interface that a plugin may leave out.
";

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root().join("wit")).expect("the contract");
    let package = &resolve.packages[package];
    assert_eq!(package.name.name, PACKAGE);
    let mut page = format!("{HEAD}\nThis is `{}`.\n", package.name);
    for interface in package.interfaces.values() {
        describe(&mut page, &resolve, *interface);
    }
    page.push_str("\n## Worlds\n");
    for world in package.worlds.values() {
        let world = &resolve.worlds[*world];
        let _ = write!(page, "\n### `{}`\n\n{}", world.name, docs(&world.docs));
        for (what, items) in [("imports", &world.imports), ("exports", &world.exports)] {
            let names = items.values().filter_map(|item| match item {
                WorldItem::Interface { id, .. } => resolve.id_of(*id),
                _ => None,
            });
            let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
            let _ = write!(page, "\n- {what} {}", names.join(", "));
        }
        page.push('\n');
    }
    page
}

fn describe(page: &mut String, resolve: &Resolve, id: InterfaceId) {
    let interface = &resolve.interfaces[id];
    let name = interface.name.as_deref().unwrap_or_default();
    let _ = write!(page, "\n## `{name}`\n\n{}", docs(&interface.docs));
    for (name, id) in &interface.types {
        let kind = &resolve.types[*id];
        // A type that is used from another interface is described there.
        if !matches!(kind.kind, TypeDefKind::Type(_)) {
            of_type(page, resolve, name, kind);
        }
    }
    for function in interface.functions.values() {
        let _ =
            write!(page, "\n### `{}`\n\n{}", signature(resolve, function), docs(&function.docs));
    }
}

fn of_type(page: &mut String, resolve: &Resolve, name: &str, kind: &TypeDef) {
    let (what, rows): (&str, Vec<(String, &Docs)>) = match &kind.kind {
        TypeDefKind::Record(record) => {
            let field = |field: &wit_parser::Field| {
                format!("`{}`: {}", field.name, type_name(resolve, &field.ty))
            };
            ("record", record.fields.iter().map(|one| (field(one), &one.docs)).collect())
        }
        TypeDefKind::Enum(all) => (
            "enum",
            all.cases.iter().map(|case| (format!("`{}`", case.name), &case.docs)).collect(),
        ),
        other => unreachable!("no {} in the contract yet", other.as_str()),
    };
    let _ = write!(page, "\n### {what} `{name}`\n\n{}\n", docs(&kind.docs));
    for (row, docs) in rows {
        let words = docs
            .contents
            .as_deref()
            .map(|words| words.split_whitespace().collect::<Vec<_>>().join(" "));
        let words = words.map(|words| format!(": {words}")).unwrap_or_default();
        let _ = writeln!(page, "- {row}{words}");
    }
}

fn docs(docs: &Docs) -> String {
    docs.contents.as_deref().map(|words| format!("{}\n", words.trim())).unwrap_or_default()
}

pub(crate) fn signature(resolve: &Resolve, function: &Function) -> String {
    let parameters: Vec<_> = function
        .params
        .iter()
        .map(|param| format!("{}: {}", param.name, type_name(resolve, &param.ty)))
        .collect();
    let result = function
        .result
        .as_ref()
        .map(|kind| format!(" -> {}", type_name(resolve, kind)))
        .unwrap_or_default();
    format!("{}({}){result}", function.name, parameters.join(", "))
}

pub(crate) fn type_name(resolve: &Resolve, kind: &Type) -> String {
    match kind {
        Type::Id(id) => compound(resolve, *id),
        Type::Bool => "bool".into(),
        Type::String => "string".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn compound(resolve: &Resolve, id: TypeId) -> String {
    let kind = &resolve.types[id];
    if let Some(name) = &kind.name {
        return name.clone();
    }
    let name = |kind: &Type| type_name(resolve, kind);
    let optional = |kind: &Option<Type>| kind.as_ref().map_or_else(|| "_".to_owned(), name);
    match &kind.kind {
        TypeDefKind::List(item) => format!("list<{}>", name(item)),
        TypeDefKind::Option(item) => format!("option<{}>", name(item)),
        TypeDefKind::Result(result) => match &result.err {
            None => format!("result<{}>", optional(&result.ok)),
            Some(_) => format!("result<{}, {}>", optional(&result.ok), optional(&result.err)),
        },
        TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id)) => compound(resolve, *id),
        other => unreachable!("no {} in the contract yet", other.as_str()),
    }
}
