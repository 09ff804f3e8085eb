/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The lease of a group as an application sees it: see docs/application-lease.md of hb.
 *
 * A look is a hint: the lease may end between it and what is done upon it. What protects data is
 * storage that refuses a lower epoch than it has seen; give it the epoch with each write.
 *
 * Needs Linux 5.19 to read without CAP_BPF, C99 and GCC or Clang. Nothing to link with.
 */
#ifndef HB_LEASE_H
#define HB_LEASE_H

#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HB_LEASE_GROUPS 8
/* expires_ns of a lease without an end of its own: it ends with the life of the daemon. */
#define HB_LEASE_ENDLESS UINT64_MAX

enum hb_lease_state {
	HB_LEASE_IDLE = 0,     /* does not hold the group */
	HB_LEASE_SEEKING = 1,  /* seeks to hold it */
	HB_LEASE_HOLDING = 2,  /* holds it, as long as its lease lasts */
	HB_LEASE_RELEASED = 3, /* held it and gave it to the successor */
};

/*
 * One record of the array map pinned at /sys/fs/bpf/hb/<cluster>/<node>/LEASES, in the byte order
 * of the machine. The index is the place of the group in the configuration, from 0, that the kernel
 * half was set up with; after a change of the file look for the fingerprint.
 */
struct hb_lease {
	uint32_t sequence;   /* odd while the kernel writes what follows */
	uint8_t holder;      /* id of the node that holds, as far as this one knows; 0: nobody */
	uint8_t state;       /* enum hb_lease_state: what this node is to the group */
	uint8_t reserved[2];
	uint64_t epoch;      /* that this node seeks, holds or released; grows with each holder */
	uint64_t expires_ns; /* exclusive, CLOCK_BOOTTIME; 0: does not hold */
	uint32_t fingerprint; /* which group: what hb status --json shows; 0: none */
	uint32_t reserved2;
};

typedef char hb_lease_is_32_bytes[sizeof(struct hb_lease) == 32 ? 1 : -1];
typedef char hb_lease_epoch_at_8[offsetof(struct hb_lease, epoch) == 8 ? 1 : -1];
typedef char hb_lease_expires_at_16[offsetof(struct hb_lease, expires_ns) == 16 ? 1 : -1];

/* Maps the leases pinned at path, read-only. Returns NULL and sets errno on failure. */
static inline const struct hb_lease *hb_lease_open(const char *path)
{
	union bpf_attr attr;
	void *map;
	long fd;
	int saved;

	memset(&attr, 0, sizeof(attr));
	/*
	 * Not with BPF_F_RDONLY: a file that is open for reading alone has no shared mappings, and
	 * maps have no others. The map is frozen instead, so nobody can write it this way.
	 */
	attr.pathname = (uint64_t)(uintptr_t)path;
	fd = syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof(attr));
	if (fd < 0)
		return NULL;
	map = mmap(NULL, sizeof(struct hb_lease) * HB_LEASE_GROUPS, PROT_READ, MAP_SHARED,
		   (int)fd, 0);
	saved = errno;
	close((int)fd); /* the mapping keeps the map */
	errno = saved;
	return map == MAP_FAILED ? NULL : (const struct hb_lease *)map;
}

static inline void hb_lease_close(const struct hb_lease *leases)
{
	munmap((void *)(uintptr_t)leases, sizeof(struct hb_lease) * HB_LEASE_GROUPS);
}

/*
 * Reads the lease of one group. Returns 0, or -1 and EINVAL (no such group) or EAGAIN (it was being
 * written at every look).
 */
static inline int hb_lease_read(const struct hb_lease *leases, unsigned int group,
				struct hb_lease *out)
{
	const struct hb_lease *slot = &leases[group];
	int tries;

	if (group >= HB_LEASE_GROUPS) {
		errno = EINVAL;
		return -1;
	}
	for (tries = 0; tries < 10000; tries++) {
		uint32_t before = __atomic_load_n(&slot->sequence, __ATOMIC_ACQUIRE);

		if (before & 1)
			continue;
		memset(out, 0, sizeof(*out));
		out->sequence = before;
		out->holder = __atomic_load_n(&slot->holder, __ATOMIC_RELAXED);
		out->state = __atomic_load_n(&slot->state, __ATOMIC_RELAXED);
		out->epoch = __atomic_load_n(&slot->epoch, __ATOMIC_RELAXED);
		out->expires_ns = __atomic_load_n(&slot->expires_ns, __ATOMIC_RELAXED);
		out->fingerprint = __atomic_load_n(&slot->fingerprint, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&slot->sequence, __ATOMIC_RELAXED) == before)
			return 0;
	}
	errno = EAGAIN;
	return -1;
}

/* Returns the time in nanoseconds of CLOCK_BOOTTIME, the clock of all leases; of no use in a time
 * namespace that sets it off (time_namespaces(7)). */
static inline uint64_t hb_lease_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Whether this node held the group at that time. */
static inline int hb_lease_held(const struct hb_lease *lease, uint64_t now)
{
	return lease->state == HB_LEASE_HOLDING && now < lease->expires_ns;
}

#endif
