/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Names of the KVM selftests library that differ between kernels, told apart by macros of
 * its headers.  No other file here depends on the kernel's version.
 */
#ifndef SELFTESTS_KVM_COMPAT_H
#define SELFTESTS_KVM_COMPAT_H

#include "kvm_util.h"

/* An address of the guest, as the library passes it by reference: vm_vaddr_t, now gva_t. */
typedef __typeof__(addr_hva2gpa(NULL, NULL)) guest_address_t;

#ifdef __aarch64__
/*
 * A library with this function gives every VM with at least one vCPU a vGIC, unless the
 * function is called.  No test wants a vGIC that it did not request, and the benchmark's
 * counts must not depend on one.
 */
void __attribute__((weak)) test_disable_default_vgic(void);
#define disable_default_vgic()	({ if (test_disable_default_vgic) test_disable_default_vgic(); })
#else
#define disable_default_vgic()	({ })
#endif

#ifdef __x86_64__
#include "svm_util.h"

#ifdef SVM_MISC_ENABLE_NP
/* Libraries with this macro keep the stack in struct svm_test_data. */
#define setup_svm(svm, rip, stack)	((void)(stack), generic_svm_setup(svm, rip))
#define enable_nested_paging(control)	((control)->misc_ctl |= SVM_MISC_ENABLE_NP)
#else
#define setup_svm(svm, rip, stack)	generic_svm_setup(svm, rip, stack)
#define enable_nested_paging(control)	((control)->nested_ctl |= SVM_NESTED_CTL_NP_ENABLE)
#endif
#endif /* __x86_64__ */

#endif
