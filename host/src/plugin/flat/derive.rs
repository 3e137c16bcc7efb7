//! Layouts of tuples, and of the types that are generated from the contract.
//!
//! Each type is listed once, and the compiler refuses a list with a missing field or case. A test
//! compares all layouts with those that wit-parser computes from `wit/`.

use wasmtime::bail;
use wasmtime::component::Resource;

use super::abi::{Lift, Lower};
use super::passing::{Flat, Layout, Lifting, Lowering, Need, aligned, greater};
use super::slots::{Few, Numbers, Slot, Slots};
use crate::plugin::bindings::{
    Action, ClientInfo, DisconnectReason, NameError, Priority, SendError, TlsInfo, WriteError,
};

type Result<T> = wasmtime::Result<T>;

/// Tuples and records: fields side by side, each at its alignment.
macro_rules! fields {
    ($kind:ty, [$($of:ident)*], [$($field:tt: $type:ty),+]) => {
        impl<$($of: Layout),*> Layout for $kind {
            const SIZE: usize = {
                let mut size = 0;
                $(size = aligned(size, <$type>::ALIGN) + <$type>::SIZE;)+
                aligned(size, Self::ALIGN)
            };
            const ALIGN: usize = {
                let mut align = 1;
                $(align = greater(align, <$type>::ALIGN);)+
                align
            };
            const FLAT: Slots = Slots::NONE $(.then(<$type>::FLAT))+;
        }

        impl<$($of: Lower),*> Lower for $kind {
            const ASKS: bool = false $(|| <$type>::ASKS)+;

            fn ask(&self, needs: &mut Few<Need>) {
                $(self.$field.ask(needs);)+
            }

            fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
                $(self.$field.lower(flat, to)?;)+
                Ok(())
            }

            fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
                let mut next = at;
                $(
                    next = at + aligned(next - at, <$type>::ALIGN);
                    self.$field.store(next, to)?;
                    next += <$type>::SIZE;
                )+
                let _ = next;
                Ok(())
            }
        }
    };
}

/// Tuples that guests pass, too.
macro_rules! tuple {
    ($($of:ident: $at:tt),+) => {
        fields!(($($of,)+), [$($of)+], [$($at: $of),+]);

        impl<$($of: Lift),+> Lift for ($($of,)+) {
            fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
                Ok(($($of::lift(flat, from)?,)+))
            }

            fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
                let mut next = at;
                let value = ($({
                    let place = at + aligned(next - at, $of::ALIGN);
                    next = place + $of::SIZE;
                    $of::load(place, from)?
                },)+);
                let _ = next;
                Ok(value)
            }
        }
    };
}

tuple!(A: 0);
tuple!(A: 0, B: 1);
tuple!(A: 0, B: 1, C: 2);
tuple!(A: 0, B: 1, C: 2, D: 3);

/// What a list below says of a type.
#[cfg(test)]
trait Listed {
    const NAME: &'static str;
    const PARTS: &'static [&'static str];
}

/// A record that the host passes.
macro_rules! record {
    ($kind:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        fields!($kind, [], [$($field: $type),+]);

        #[cfg(test)]
        impl Listed for $kind {
            const NAME: &'static str = stringify!($kind);
            const PARTS: &'static [&'static str] = &[$(stringify!($field)),+];
        }

        const _: fn(&$kind) = |value| {
            // Refused by the compiler if a field is missing, or has another type.
            let $kind { $($field),+ } = value;
            $(let _: &$type = $field;)+
        };
    };
}

/// An enum, in the order of the contract.
macro_rules! cases {
    ($kind:ident { $($case:ident),+ $(,)? }) => {
        impl Layout for $kind {
            const SIZE: usize = 1;
            const ALIGN: usize = 1;
            const FLAT: Slots = Slots::one(Slot::I32);
        }

        #[cfg(test)]
        impl Listed for $kind {
            const NAME: &'static str = stringify!($kind);
            const PARTS: &'static [&'static str] = &[$(stringify!($case)),+];
        }

        impl $kind {
            fn number(self) -> u8 {
                let mut number = 0;
                $(
                    if matches!(self, Self::$case) {
                        return number;
                    }
                    number += 1;
                )+
                number
            }
        }

        impl Lift for $kind {
            fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
                let number = u32::lift(flat, from)?;
                const CASES: &[$kind] = &[$($kind::$case),+];
                let case = usize::try_from(number).ok().and_then(|number| CASES.get(number));
                match case {
                    Some(case) => Ok(*case),
                    None => bail!("discriminant {number} out of range [0..{})", CASES.len()),
                }
            }

            fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
                let number = u8::load(at, from)?;
                Self::lift(&mut Flat(&[number.into()]), from)
            }
        }

        impl Lower for $kind {
            fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
                self.number().lower(flat, to)
            }

            fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
                self.number().store(at, to)
            }
        }
    };
}

record!(ClientInfo {
    id: u64,
    server: String,
    peer_address: String,
    peer_port: u16,
    local_address: String,
    local_port: u16,
    tls: Option<TlsInfo>,
    priority: Priority,
    parameter: i64,
});
record!(TlsInfo {
    protocol: String,
    cipher_suite: String,
    server_name: Option<String>,
    alpn: Option<String>,
    client_subject: Option<String>,
});
cases!(Priority { Background, Low, Normal, High, Critical });
cases!(Action { Proceed, Close, Abort });
cases!(DisconnectReason {
    PeerClosed,
    PeerReset,
    PeerTruncated,
    ClosedByPlugin,
    IdleTimeout,
    WriteTimeout,
    Evicted,
    ServerStopped,
    FirstByteTimeout,
    MinRate,
    SessionTimeout,
});
cases!(WriteError { Closed, TooLarge, TimedOut });
cases!(SendError { Closed, Full, TooLarge });
cases!(NameError { Taken, TooLong, Empty });

/// A handle: the guest lends one that it holds, and the host gives a new one.
impl<T: 'static> Layout for Resource<T> {
    const SIZE: usize = 4;
    const ALIGN: usize = 4;
    const FLAT: Slots = Slots::one(Slot::I32);
}

impl<T: 'static> Lift for Resource<T> {
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
        let handle = u32::lift(flat, from)?;
        from.handles.lend::<T>(handle)
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        let handle = u32::load(at, from)?;
        from.handles.lend::<T>(handle)
    }
}

impl<T: 'static> Lower for Resource<T> {
    fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
        to.handles.give(self)?.lower(flat, to)
    }

    fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
        to.handles.give(self)?.store(at, to)
    }
}

#[cfg(test)]
mod tests;
