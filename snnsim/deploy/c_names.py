"""Names that generated C can have, whatever compiler, standard and file system it meets."""

from __future__ import annotations

import re

from snnsim.errors import InvalidValueError

__all__ = ["check_name"]

# of C and C++ up to C23 and C++26, which no struct can be named
WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class co_await"
    " co_return co_yield compl concept const const_cast consteval constexpr constinit continue"
    " contract_assert decltype default delete do double dynamic_cast else enum explicit export"
    " extern false float for friend goto if import inline int long module mutable namespace new"
    " noexcept not not_eq nullptr operator or or_eq private protected public register"
    " reinterpret_cast requires restrict return short signed sizeof static static_assert"
    " static_cast struct switch template this thread_local throw true try typedef typeid typename"
    " typeof typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq"
)
# what a header of the standard, or a compiler that is not told to be strict, replaces by something
# else
MACROS = (
    "assert complex errno imaginary math_errhandling noreturn offsetof setjmp stderr stdin stdout"
    " unreachable bfin cris far gcos hpux hppa huge host_mips i386 i486 i586 i686 interrupt linux"
    " m68k mc68000 mips near ns32000 pdp11 pixel powerpc ptx pyr sequent sgi sparc sun svr4 tahoe"
    " unix u3b vax vector"
)
# files that Windows cannot hold
DEVICES = r"aux|con|nul|prn|com\d|lpt\d"


def check_name(name: str) -> None:
    """Refuse a name that files, struct and functions could not have.

    Raises:
        InvalidValueError: no identifier in lower case, or one that means something else somewhere.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "main":
        raise InvalidValueError(
            f"to_c(name={name!r}): must be a C identifier of lower-case letters, digits and _; such"
            " as 'snn'"
        )
    if name in WORDS.split() or name.endswith("_t"):
        raise InvalidValueError(
            f"to_c(name={name!r}): is a word of C or C++, or a type's; take another, such as 'snn'"
        )
    if name in MACROS.split():
        raise InvalidValueError(
            f"to_c(name={name!r}): is a macro of some compilers; take another, such as 'snn'"
        )
    if re.fullmatch(DEVICES, name):
        raise InvalidValueError(
            f"to_c(name={name!r}): is no name for a file on Windows; take another, such as 'snn'"
        )
    if name.endswith("_") or "__" in name:
        raise InvalidValueError(
            f"to_c(name={name!r}): would make names with two _ in a row, which C++ keeps; such as"
            " 'snn'"
        )
