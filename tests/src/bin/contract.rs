//! Writes `docs/contract.md` from the WIT.

use wharf_tests::contract::page;
use wharf_tests::guests::root;

fn main() -> std::io::Result<()> {
    std::fs::write(root().join("docs/contract.md"), page())
}
