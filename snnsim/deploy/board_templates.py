"""The text of a program for a microcontroller board that runs a generated network, with `$names` to
fill in; see `board.py`.
"""

from __future__ import annotations

LINKER_SCRIPT = """\
/* $board: $flash bytes of flash, $ram bytes of RAM. */
MEMORY
{
    FLASH (rx) : ORIGIN = 0x00000000, LENGTH = $flash
    RAM (rwx) : ORIGIN = 0x20000000, LENGTH = $ram
}
ENTRY(start)
SECTIONS
{
    .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > FLASH
    .ARM.exidx : { *(.ARM.exidx*) } > FLASH
    .data : ALIGN(4) { data_begin = .; *(.data*) . = ALIGN(4); data_end = .; } > RAM AT > FLASH
    data_load = LOADADDR(.data);
    .bss (NOLOAD) : ALIGN(4) { bss_begin = .; *(.bss*) *(COMMON) . = ALIGN(4); bss_end = .; } > RAM
    stack_top = ORIGIN(RAM) + LENGTH(RAM);
}
"""

PROGRAM = """\
/* Runs samples through the network on a Cortex-M, and counts. Reads the file "input" of the host by semihosting: the numbers of
 * samples and of time steps (uint32_t each), then the inputs [sample][step][input]. Writes to its file "output" after every step
 * the ticks that it took (uint32_t), its outputs as int32_t, all codes as uint8_t, and last the bytes of stack in use (uint32_t).
 * No library: vectors and start-up are below. */
#include "$name.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYST_CSR REGISTER(0xE000E010u)
#define SYST_RVR REGISTER(0xE000E014u)
#define SYST_CVR REGISTER(0xE000E018u)
#define TICKS 0x00FFFFFFu
#define PAINT 0xA5A5A5A5u
/* what main itself may keep below its mark */
#define MARGIN 64u

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { READ_BINARY = 1, WRITE_BINARY = 5, STOPPED = 0x20026 };

extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];
void start(void);
void fault(void);

static struct $name net;
static ${name}_input input[${NAME}_INPUTS];
static ${name}_output output[${NAME}_OUTPUTS];

static uint32_t semihosting(uint32_t operation, const uint32_t *arguments)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const uint32_t *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(uint32_t status)
{
    const uint32_t arguments[2] = {STOPPED, status};
    for (;;) {
        (void)semihosting(SYS_EXIT_EXTENDED, arguments);
    }
}

void fault(void)
{
    leave(2);
}

static uint32_t opened(const char *path, uint32_t length, uint32_t mode)
{
    const uint32_t arguments[3] = {(uint32_t)path, mode, length};
    return semihosting(SYS_OPEN, arguments);
}

/* Both calls return how many bytes were not transferred. */
static void receive(uint32_t file, void *bytes, uint32_t size)
{
    const uint32_t arguments[3] = {file, (uint32_t)bytes, size};
    if (semihosting(SYS_READ, arguments) != 0u) {
        leave(3);
    }
}

static void send(uint32_t file, const void *bytes, uint32_t size)
{
    const uint32_t arguments[3] = {file, (uint32_t)bytes, size};
    if (semihosting(SYS_WRITE, arguments) != 0u) {
        leave(4);
    }
}

static uint32_t stack_pointer(void)
{
    uint32_t sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
}

int main(void)
{
    const uint32_t from = opened("input", 5, READ_BINARY), to = opened("output", 6, WRITE_BINARY), sp = stack_pointer();
    uint32_t sizes[2], sample, t, n;
    volatile uint32_t *painted;
    for (painted = bss_end; (uint32_t)painted < sp - MARGIN; painted++) {
        *painted = PAINT;
    }
    SYST_RVR = TICKS;
    SYST_CSR = 5u;
    receive(from, sizes, sizeof sizes);
    for (sample = 0; sample < sizes[0]; sample++) {
        ${name}_reset(&net);
        for (t = 0; t < sizes[1]; t++) {
            uint32_t began;
            receive(from, input, sizeof input);
            began = SYST_CVR;
            ${name}_step(&net, input, output);
            began = (began - SYST_CVR) & TICKS;
            send(to, &began, sizeof began);
            for (n = 0; n < ${NAME}_OUTPUTS; n++) {
                const int32_t value = (int32_t)output[n];
                send(to, &value, sizeof value);
            }
            for (n = ${NAME}_NEURONS; n > 0u; n--) {
                const uint8_t code = (uint8_t)${name}_code(&net, ${NAME}_NEURONS - n);
                send(to, &code, 1);
            }
        }
    }
    for (painted = bss_end; *painted == PAINT; painted++) {
    }
    n = sp - (uint32_t)painted;
    send(to, &n, sizeof n);
    leave(0);
    return 0;
}

void start(void)
{
    const uint32_t *from = data_load;
    uint32_t *to;
    for (to = data_begin; to != data_end; to++) {
        *to = *from++;
    }
    for (to = bss_begin; to != bss_end; to++) {
        *to = 0;
    }
    (void)main();
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[4] = {
    (uintptr_t)stack_top, (uintptr_t)start, (uintptr_t)fault, (uintptr_t)fault};
"""
