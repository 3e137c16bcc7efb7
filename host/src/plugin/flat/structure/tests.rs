//! Tests of what is flat, on a small component and on changes to it.

use wasmparser::Validator;

use super::*;

/// A component in the form that `wit-component` gives it.
const COMPONENT: &str = include_str!("component.wat");

fn bytes(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// The component, with a part of its text changed that occurs once.
fn changed(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(COMPONENT.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

/// What is said of a changed component, which is valid.
fn said(changes: &[(&str, &str)]) -> Result<Structure, NotFlat> {
    let bytes = bytes(&changed(changes));
    Validator::new().validate_all(&bytes).unwrap();
    read(&bytes)
}

fn reason(changes: &[(&str, &str)]) -> &'static str {
    said(changes).expect_err("it is flat").0
}

/// The functions behind the main module's imports.
fn linked(structure: &Structure) -> Vec<&str> {
    let linked = structure.imports.iter().map(|import| match &import.target {
        Target::Call { interface, function, .. } => (interface, function.as_str()),
        Target::Drop { interface, .. } => (interface, "drop"),
    });
    linked
        .inspect(|(interface, _)| assert_eq!(*interface, "a:b/host@0.1.0"))
        .map(|(_, f)| f)
        .collect()
}

#[test]
fn shims_are_seen_through() {
    let structure = said(&[]).unwrap();
    assert_eq!(linked(&structure), ["say", "shout", "ask", "count", "drop"]);
    let asks = Options { memory: true, realloc: true };
    assert!(matches!(structure.imports[2].target, Target::Call { options, .. } if options == asks));
    let say = Options { memory: true, realloc: false };
    assert!(matches!(structure.imports[0].target, Target::Call { options, .. } if options == say));
    assert_eq!(structure.imports[4].field, "[resource-drop]thing");
    assert_eq!(structure.main_index, 0);
    assert_eq!(structure.memory.as_deref(), Some("memory"));
    assert_eq!(structure.realloc.as_deref(), Some("realloc"));
}

#[test]
fn exports_are_followed_through_their_names() {
    let structure = said(&[]).unwrap();
    let [go, name] = &structure.exports[..] else { panic!("{:?}", structure.exports) };
    assert_eq!((go.interface.as_str(), go.function.as_str()), ("a:b/plugin@0.1.0", "go"));
    assert_eq!((go.core.as_str(), go.post_return.as_deref()), ("run", None));
    assert_eq!(go.options, Options { memory: true, realloc: true });
    assert_eq!((name.core.as_str(), name.post_return.as_deref()), ("name", Some("name-post")));
}

#[test]
fn a_bag_of_functions_is_an_export() {
    let bag = r#"(instance $exported (export "go" (func $run)) (export "name" (func $name)))"#;
    let of_renames = r#"(instance $exported (instantiate $renames
    (with "import-func-run" (func $run))
    (with "import-func-name" (func $name))))"#;
    assert_eq!(said(&[(of_renames, bag)]).unwrap().exports, said(&[]).unwrap().exports);
}

#[test]
fn a_crossed_wiring_is_followed() {
    let crossed = ["shout", "say", "ask", "count", "drop"];
    for changes in [
        // The shim's functions call each other's entry.
        [
            ("i32.const 0 call_indirect (type $two)", "i32.const 7 call_indirect (type $two)"),
            ("i32.const 1 call_indirect (type $two)", "i32.const 0 call_indirect (type $two)"),
            ("i32.const 7 call_indirect (type $two)", "i32.const 1 call_indirect (type $two)"),
        ]
        .as_slice(),
        // The table is filled in another order.
        &[("func $f0 $f1 $f2", "func $f1 $f0 $f2")],
        // The functions have each other's place among the links.
        &[
            (r#""0" (func $say)"#, r#""0" (func $shout)"#),
            (r#""1" (func $shout)"#, r#""1" (func $say)"#),
        ],
        // The main module's imports have each other's shim.
        &[(r#""0"))"#, r#""9"))"#), (r#""1"))"#, r#""0"))"#), (r#""9"))"#, r#""1"))"#)],
        // Another function is called.
        &[
            (r#"(func $host "say")"#, r#"(func $host "loud")"#),
            (r#"(func $host "shout")"#, r#"(func $host "say")"#),
            (r#"(func $host "loud")"#, r#"(func $host "shout")"#),
        ],
    ] {
        assert_eq!(linked(&said(changes).unwrap()), crossed, "{changes:?}");
    }
}

#[test]
fn crossed_exports_are_followed() {
    let crossed = said(&[
        (r#"(core func $main "run")"#, r#"(core func $main "name-2")"#),
        (
            r#"(func $name (export "name")"#,
            r#"(func (export "name-2") (param i32 i32)) (func $name (export "name")"#,
        ),
    ]);
    assert_eq!(crossed.unwrap().exports[0].core, "name-2");
    let renamed = said(&[
        (r#"(export "go" (func $run))"#, ""),
        (
            r#"(export "name" (func $name)))"#,
            r#"(export "name" (func $run)) (export "go" (func $name)))"#,
        ),
    ]);
    let renamed = renamed.unwrap().exports;
    assert_eq!((renamed[0].function.as_str(), renamed[0].core.as_str()), ("go", "name"));
    assert_eq!((renamed[1].function.as_str(), renamed[1].core.as_str()), ("name", "run"));
}

#[test]
fn exports_and_aliases_move_the_indexes() {
    let more = r#"
        (alias outer 0 $thing (type))
        (export "main" (core module $main))
        (export "run" (func $run))
        (alias core export $main "first" (core global))
        (core type (func))
        (export "a:b/plugin@0.1.0" (instance $exported))
        (func $last (type $name) (canon lift (core func $main "name") (memory $memory)))
        (instance $bag (export "name" (func $last)))
        (export "a:b/other@0.1.0" (instance $bag))"#;
    let plain = r#"(export "a:b/plugin@0.1.0" (instance $exported))"#;
    let exports = said(&[(plain, more)]).unwrap().exports;
    assert_eq!(exports.len(), 3);
    assert_eq!((exports[2].core.as_str(), &exports[2].post_return), ("name", &None));
}

#[test]
fn other_shim_bodies_are_not_flat() {
    let body = "local.get 0 i32.const 2 call_indirect (type $one)";
    for other in [
        "local.get 0 i32.const 2 call_indirect (type $one) nop",
        "nop local.get 0 i32.const 2 call_indirect (type $one)",
        "i32.const 5 i32.const 2 call_indirect (type $one)",
        "local.get 0 local.get 0 call_indirect (type $one)",
        "(local i32) local.get 0 i32.const 2 call_indirect (type $one)",
        "local.get 0 i32.const 2 return_call_indirect (type $one)",
        "",
        "unreachable",
    ] {
        assert_eq!(reason(&[(body, other)]), OTHER_MODULE.0, "{other}");
    }
    // The entries are beyond the table.
    for entry in ["3", "-1"] {
        let other = body.replace("const 2", &format!("const {entry}"));
        assert_eq!(reason(&[(body, &other)]), OTHER_MODULE.0, "{entry}");
    }
}

#[test]
fn a_call_of_another_type_is_not_flat() {
    let two = "local.get 0 local.get 1 i32.const 1 call_indirect (type $two)";
    let other = two.replace("const 1", "const 2");
    assert_eq!(reason(&[(two, &other)]), "a shim of another type than its function");
    assert_eq!(
        reason(&[("func $f0 $f1 $f2", "func $f2 $f1 $f0")]),
        "a shim of another type than its function"
    );
}

#[test]
fn other_shims_are_not_flat() {
    let table = r#"(table (export "$imports") 3 3 funcref)"#;
    for other in [
        r#"(table (export "$imports") 3 funcref)"#,
        r#"(table (export "$imports") 3 4 funcref)"#,
        r#"(table (export "$imports") 3 3 funcref) (table 1 1 funcref)"#,
        r#"(table (export "$imports") (export "again") 3 3 funcref)"#,
        r#"(table (export "$imports") 3 3 funcref) (memory 1)"#,
        r#"(table (export "$imports") 3 3 funcref) (global i32 i32.const 0)"#,
        r#"(table (export "$imports") 3 3 funcref) (elem (i32.const 0) func 1)"#,
    ] {
        // The other module's table has the same limits, so that the component stays valid.
        let imported = if other.contains("3 4") { "3 4" } else { "3" };
        let imported = if other.contains("3 3") { "3 3" } else { imported };
        let imported = format!(r#"(import "" "$imports" (table {imported} funcref))"#);
        let changes =
            [(table, other), (r#"(import "" "$imports" (table 3 3 funcref))"#, &imported)];
        assert_eq!(reason(&changes), OTHER_MODULE.0, "{other}");
    }
}

#[test]
fn other_fillings_are_not_flat() {
    let filling = "(elem (i32.const 0) func $f0 $f1 $f2)";
    for (other, why) in [
        ("(elem (i32.const 0) func $f0 $f1 $f2) (elem (i32.const 0) func $f1)", OTHER_MODULE.0),
        ("(elem (i32.const 1) func $f0 $f1)", OTHER_MODULE.0),
        ("(elem func $f0 $f1 $f2)", OTHER_MODULE.0),
        (
            "(elem (i32.const 0) funcref (ref.func $f0) (ref.func $f1) (ref.null func))",
            OTHER_MODULE.0,
        ),
        ("(elem (i32.const 0) func $f0 $f1)", "a shim that is not filled"),
        ("(elem (i32.const 0) func $f0 $f1 $f2) (func)", OTHER_MODULE.0),
        ("(elem (i32.const 0) func $f0 $f1 $f2) (memory 1)", OTHER_MODULE.0),
        ("(elem (i32.const 0) func $f0 $f1 $f2) (start $f0)", INITIALISES.0),
        ("", OTHER_MODULE.0),
    ] {
        let start = other.contains("start");
        let said = bytes(&changed(&[(filling, other)]));
        assert!(start || Validator::new().validate_all(&said).is_ok(), "{other}");
        assert_eq!(read(&said).expect_err(other).0, why, "{other}");
    }
}

#[test]
fn a_table_that_others_see_is_not_flat() {
    let links = r#"(export "[resource-drop]thing" (func $drop))"#;
    let table =
        r#"(export "[resource-drop]thing" (func $drop)) (export "t" (table $shim "$imports"))"#;
    let import = r#"(import "host" "t" (table 3 3 funcref)) (table 2 funcref)"#;
    let shared = reason(&[(links, table), ("(table 2 funcref)", import)]);
    assert_eq!(shared, "a main module that imports more than functions");
    let own = reason(&[
        ("(table 2 funcref)", r#"(table 2 funcref) (table (export "t") 3 3 funcref)"#),
        (r#"(table $shim "$imports")"#, r#"(table $main "t")"#),
    ]);
    assert_eq!(own, "a table that is not the shim's");
}

#[test]
fn more_core_modules_are_not_flat() {
    let filled = "(core instance $filled (instantiate $fixup (with \"\" (instance $links))))";
    let more = |module: &str| {
        format!("{filled} (core module $more {module}) (core instance (instantiate $more))")
    };
    assert_eq!(reason(&[(filled, &more(""))]), OTHER_MODULE.0);
    assert_eq!(reason(&[(filled, &more("(func $f) (start $f)"))]), OTHER_MODULE.0);
    let again =
        format!("{filled} (core instance (instantiate $fixup (with \"\" (instance $links))))");
    assert_eq!(reason(&[(filled, &again)]), OTHER_MODULE.0);
    let first = "(core instance $shim (instantiate $shim))";
    let again = format!("{first} (core instance (instantiate $shim))");
    assert_eq!(reason(&[(first, &again)]), OTHER_MODULE.0);
    assert_eq!(reason(&[(filled, "")]), "a shim that stays empty");
    // A module that is not instantiated does nothing.
    assert!(said(&[(first, &format!("(core module) {first}"))]).is_ok());
}

#[test]
fn start_functions_are_not_flat() {
    let main = r#"(func $run (export "run")"#;
    assert_eq!(reason(&[(main, &format!("(func $s) (start $s) {main}"))]), INITIALISES.0);
    let filled = "(core instance $filled (instantiate $fixup (with \"\" (instance $links))))";
    let start = format!(
        r#"{filled}
        (core module $start (import "" "" (func)) (start 0))
        (core instance $args (export "" (func $main "start")))
        (core instance (instantiate $start (with "" (instance $args))))"#
    );
    let changes = [(filled, start.as_str()), (main, &format!(r#"(func (export "start")) {main}"#))];
    assert_eq!(reason(&changes), INITIALISES.0);
}

#[test]
fn other_options_are_not_flat() {
    let lower = r#"(func $host "ask") (memory $memory) (realloc $realloc)"#;
    for encoding in ["utf16", "latin1+utf16"] {
        let other = format!("{lower} string-encoding={encoding}");
        assert_eq!(reason(&[(lower, &other)]), "strings that are not UTF-8");
    }
    let asynchronous = bytes(&changed(&[(lower, &format!("{lower} async"))]));
    assert_eq!(read(&asynchronous), Err(NotFlat("an asynchronous call")));
    let memory = r#"(memory (export "memory") (export "other") 1)"#;
    let other = [
        (r#"(memory (export "memory") 1)"#, memory),
        (lower, r#"(func $host "ask") (memory $main "other") (realloc $realloc)"#),
    ];
    assert_eq!(reason(&other), "calls that use different memories");
    let other = [
        (r#"(func (export "realloc")"#, r#"(func (export "realloc") (export "other")"#),
        (lower, r#"(func $host "ask") (memory $memory) (realloc (core func $main "other"))"#),
    ];
    assert_eq!(reason(&other), "calls that use different `realloc` functions");
}

#[test]
fn nested_components_with_more_are_not_flat() {
    let import = r#"(import "import-func-run" (func $run (param "text" string)))"#;
    for more in [
        "(core module)",
        "(component)",
        "(instance)",
        r#"(import "more" (instance))"#,
        "(alias outer 1 $main (core module))",
        "(alias outer 1 $drop-type (type)) (core func (canon resource.drop $drop-type))",
    ] {
        let more = more.replace("1 $drop-type (type)", "1 $own (type $drop-type)");
        let first = "(core instance $shim (instantiate $shim))";
        let own = format!("(type $own (resource (rep i32))) {first}");
        let bytes = bytes(&changed(&[(import, &format!("{more} {import}")), (first, &own)]));
        let reason = read(&bytes).expect_err(&more).0;
        assert_eq!(reason, "a nested component with code or instances of its own", "{more}");
    }
}

#[test]
fn other_imports_and_exports_are_not_flat() {
    let drop = "(core func $drop (canon resource.drop $thing))";
    let own = "(type $own (resource (rep i32))) (core func $drop (canon resource.drop $own))";
    assert_eq!(reason(&[(drop, own)]), "a resource type that is not imported in an interface");
    let first = "(core instance $shim (instantiate $shim))";
    let idle = format!("(component $idle (core module)) (instance (instantiate $idle)) {first}");
    let why = "a nested component with code or instances of its own";
    assert_eq!(reason(&[(first, &idle)]), why);
    let count = r#"(alias export $host "count" (func $count))"#;
    let alone = r#"(import "count" (func $count (result u32)))"#;
    let why = "a call of a function that is not imported in an interface";
    assert_eq!(reason(&[(count, alone)]), why);
    let export = r#"(export "a:b/plugin@0.1.0" (instance $exported))"#;
    let import = r#"(export "a:b/plugin@0.1.0" (instance $host))"#;
    assert_eq!(reason(&[(export, import)]), "an exported import");
    let typed = r#"(export "a:b/plugin@0.1.0" (instance $exported) (instance))"#;
    assert_eq!(reason(&[(export, typed)]), "an exported interface with a type of its own");
}

#[test]
fn adapters_are_named() {
    let text = COMPONENT.replace(r#""host""#, r#""wasi_snapshot_preview1""#);
    let adapted = read(&bytes(&text));
    assert_eq!(adapted, Err(NotFlat("an adapter module of WASI preview 1")));
    assert_eq!(read(&bytes("(module)")), Err(NotFlat("a core module without a component")));
    assert_eq!(read(&bytes("(component)")), Err(NotFlat("no exported function")));
}

#[test]
fn damaged_bytes_are_no_panic() {
    let whole = bytes(COMPONENT);
    let try_all = |bytes: &[u8]| {
        let _ = read(bytes);
    };
    for length in 0..whole.len() {
        try_all(&whole[..length]);
    }
    for at in 0..whole.len() {
        for other in [
            0x00,
            0x01,
            0x7f,
            0x80,
            0xff,
            whole[at] ^ 1,
            whole[at] ^ 0x40,
            whole[at].wrapping_add(1),
        ] {
            let mut damaged = whole.clone();
            damaged[at] = other;
            try_all(&damaged);
        }
    }
}

#[test]
fn deep_types_take_no_deep_stack() {
    // A type of a component that has a type of a component, and so on.
    let mut content = vec![1];
    content.extend([0x41, 1, 1].repeat(1_000_000));
    let mut deep = b"\0asm\x0d\0\x01\0\x07".to_vec();
    let mut length = content.len();
    while length > 0x7f {
        deep.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    deep.push(length as u8);
    deep.extend(content);
    assert_eq!(read(&deep), Err(NotFlat("no exported function")));
}
