//! Components of many shapes: the default guest with further core modules.

use std::fmt::Write;

/// A further core module. It grows and writes when it is instantiated.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// Pages of the module's memory. 0: no memory.
    pub pages: u32,
    /// Data segments: start address, and length in bytes.
    pub data: Vec<(u32, u32)>,
    /// Pages by which the memory grows.
    pub grows: u32,
    /// Which pages of the memory are written to.
    pub writes: Writes,
    /// Elements of each table, and the elements by which it grows.
    pub tables: Vec<(u32, u32)>,
}

/// The part of its memory that a module writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writes {
    /// Nothing.
    #[default]
    Nothing,
    /// One byte in each 4 KiB of the memory.
    Everything,
}

impl Module {
    fn text(&self) -> String {
        let mut text = String::from("(module\n");
        if self.pages > 0 {
            writeln!(text, "(memory {})", self.pages).expect("a string");
        }
        for (at, bytes) in &self.data {
            let data = "x".repeat(*bytes as usize);
            writeln!(text, "(data (i32.const {at}) \"{data}\")").expect("a string");
        }
        for (elements, _) in &self.tables {
            writeln!(text, "(table {elements} funcref)").expect("a string");
        }
        text.push_str("(func $start (local $at i32)\n");
        if self.grows > 0 {
            writeln!(text, "(drop (memory.grow (i32.const {})))", self.grows).expect("a string");
        }
        for (number, (_, more)) in self.tables.iter().enumerate() {
            writeln!(text, "(drop (table.grow {number} (ref.null func) (i32.const {more})))")
                .expect("a string");
        }
        if self.writes == Writes::Everything && self.pages > 0 {
            text.push_str(
                "(loop $next (i32.store8 (local.get $at) (i32.const 1))
                   (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                   (br_if $next (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const \
                   65536)))))\n",
            );
        }
        text.push_str(")\n(start $start))");
        text
    }
}

/// Appends a number in LEB128, as components encode it.
fn number(mut value: usize, to: &mut Vec<u8>) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        to.push(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return;
        }
    }
}

/// The number of core modules among a component's sections.
fn modules(component: &[u8]) -> usize {
    let (mut at, mut count) = (8, 0);
    while at < component.len() {
        count += usize::from(component[at] == 1);
        at += 1;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = component[at];
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at += length;
    }
    count
}

/// The component with these core modules beside its own, each of them instantiated.
#[must_use]
pub fn with_modules(component: &[u8], more: &[Module]) -> Vec<u8> {
    let (mut bytes, first) = (component.to_vec(), modules(component));
    for (at, module) in more.iter().enumerate() {
        let text = module.text();
        let module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        bytes.push(1);
        number(module.len(), &mut bytes);
        bytes.extend(module);
        // One instance of the module, without imports.
        let mut instance = vec![1, 0];
        number(first + at, &mut instance);
        instance.push(0);
        bytes.push(2);
        number(instance.len(), &mut bytes);
        bytes.extend(instance);
    }
    bytes
}

/// The modules that take the most of the instances' pools: three memories, each with an image in
/// its middle, which grow and are written to.
#[must_use]
pub fn worst() -> Vec<Module> {
    let module = Module {
        pages: 2,
        data: vec![(70_000, 10)],
        grows: 1,
        writes: Writes::Everything,
        tables: vec![],
    };
    vec![module; 3]
}
