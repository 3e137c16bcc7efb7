//! Values there and back, and what hostile guests pass.

use proptest::prelude::*;

use super::*;
use crate::plugin::flat::handles::Handles;

const MEMORY_BYTES: usize = 4 << 10;

fn lifting<'a>(memory: &'a [u8], handles: &'a mut Handles) -> Lifting<'a> {
    Lifting { memory, handles, left: usize::MAX }
}

fn lifted<T: Lift>(memory: &[u8], numbers: &[u64]) -> Result<T> {
    T::lift(&mut Flat(numbers), &mut lifting(memory, &mut Handles::new(0)))
}

/// Writes a value as a guest's allocator would let the host, and reads it again, both ways.
fn there_and_back<T: Lower + Lift + PartialEq + std::fmt::Debug>(value: &T) {
    let mut memory = vec![0xa5; MEMORY_BYTES];
    let (mut needs, mut given, mut end) = (Few::new(), Few::new(), aligned(T::SIZE, 8));
    value.ask(&mut needs);
    for need in (0..needs.len()).filter_map(|at| needs.get(at)) {
        end = aligned(end, need.align);
        given.push(end as u32);
        end += need.size;
    }
    let mut handles = Handles::new(0);
    let mut numbers = Numbers::new();
    let mut to = Lowering { memory: &mut memory, handles: &mut handles, given: &given, used: 0 };
    value.store(0, &mut to).expect("room");
    to.used = 0;
    value.lower(&mut numbers, &mut to).expect("room");
    assert_eq!(to.used, given.len(), "memory was asked for and not used");
    assert_eq!(numbers.count(), T::FLAT.count());
    let loaded = T::load(0, &mut lifting(&memory, &mut handles)).expect("a value");
    assert_eq!(&loaded, value);
    assert_eq!(&lifted::<T>(&memory, numbers.all()).expect("a value"), value);
    // A pointer of an allocator that is wrong by any amount beyond the memory is refused.
    for at in 0..given.len() {
        let mut bad = Few::new();
        let wrong = |index| if index == at { u32::MAX } else { 0 };
        (0..given.len()).for_each(|index| bad.push(wrong(index)));
        let needed = needs.get(at).expect("a need");
        let mut to = Lowering { memory: &mut memory, handles: &mut handles, given: &bad, used: 0 };
        if needed.size > 0 || needed.align > 1 {
            assert!(value.store(0, &mut to).is_err(), "{value:?} {at}");
        }
    }
}

/// A list of the host's values, each in a way in which it may lie.
type Value = (Option<String>, Result<Vec<u16>, String>, Vec<(String, u64)>, u8);

fn value() -> impl Strategy<Value = Value> {
    let list = proptest::collection::vec((".{0,9}", any::<u64>()), 0..5);
    let numbers = proptest::collection::vec(any::<u16>(), 0..9);
    (
        proptest::option::of(".{0,20}"),
        proptest::result::maybe_ok(numbers, ".{0,9}"),
        list,
        any::<u8>(),
    )
}

proptest! {
    #[test]
    fn values_come_back_as_they_were(value in value()) {
        there_and_back(&value);
    }

    #[test]
    fn hostile_lists_are_refused(
        at in prop_oneof![0_u64..70_000, any::<u64>(), Just(u64::from(u32::MAX))],
        len in prop_oneof![0_u64..70_000, any::<u64>(), Just(u64::from(u32::MAX))],
        memory in proptest::collection::vec(any::<u8>(), 0..MEMORY_BYTES),
    ) {
        // The ABI looks at the low half only.
        let (start, count) = (at as u32 as usize, len as u32 as usize);
        let fits = |size: usize| {
            count.checked_mul(size).is_some_and(|bytes| start + bytes <= memory.len())
        };
        let bytes = lifted::<Bytes>(&memory, &[at, len]);
        prop_assert_eq!(bytes.is_ok(), fits(1));
        let text = lifted::<String>(&memory, &[at, len]);
        let is_text = fits(1) && std::str::from_utf8(&memory[start..start + count]).is_ok();
        prop_assert_eq!(text.is_ok(), is_text);
        let words = lifted::<Vec<u32>>(&memory, &[at, len]);
        prop_assert_eq!(words.is_ok(), fits(4) && start % 4 == 0);
    }

    #[test]
    fn hostile_discriminants_are_refused(number in any::<u64>(), word in any::<u64>()) {
        let low = number as u32;
        prop_assert_eq!(lifted::<Option<u64>>(&[], &[number, word]).is_ok(), low < 2);
        prop_assert_eq!(lifted::<Result<u8, u64>>(&[], &[number, word]).is_ok(), low < 2);
        let memory = [number as u8, 0, 0, 0];
        let loaded =
            Option::<u8>::load(0, &mut lifting(&memory, &mut Handles::new(0)));
        prop_assert_eq!(loaded.is_ok(), memory[0] < 2);
    }

    #[test]
    fn any_memory_is_read_without_a_panic(
        memory in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0_usize..300,
        numbers in proptest::collection::vec(any::<u64>(), 0..20),
    ) {
        let mut handles = Handles::new(0);
        let _ = Value::load(at, &mut lifting(&memory, &mut handles));
        let _ = Value::lift(&mut Flat(&numbers), &mut lifting(&memory, &mut handles));
    }
}

#[test]
fn copies_beyond_the_limit_are_refused() {
    let memory = [b'a'; 64];
    for (limit, len) in [(0, 1), (8, 9), (63, 64)] {
        let mut handles = Handles::new(0);
        for (len, fits) in [(len - 1, true), (len, false)] {
            let mut from = Lifting { memory: &memory, handles: &mut handles, left: limit };
            let text = String::lift(&mut Flat(&[0, len]), &mut from);
            assert_eq!(text.is_ok(), fits, "{limit} {len}");
            let mut from = Lifting { memory: &memory, handles: &mut handles, left: limit };
            let bytes = Bytes::lift(&mut Flat(&[0, len]), &mut from);
            assert_eq!(bytes.is_ok(), fits, "{limit} {len}");
        }
    }
}
