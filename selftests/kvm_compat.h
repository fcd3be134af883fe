/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the KVM selftests library calls differently from kernel to kernel; nothing else
 * knows that there is more than one.  Told apart by what its headers define.
 */
#ifndef SELFTESTS_KVM_COMPAT_H
#define SELFTESTS_KVM_COMPAT_H

#include "kvm_util.h"

/* An address of the guest, as the library passes it by reference: vm_vaddr_t, now gva_t. */
typedef __typeof__(addr_hva2gpa(NULL, NULL)) guest_address_t;

#ifdef __aarch64__
/*
 * A library that has this gives each VM of more than no vCPUs a vGIC, unless it is called.  No
 * test wants one that it didn't ask for, nor is what the benchmark counts to depend on it.
 */
void __attribute__((weak)) test_disable_default_vgic(void);
#define disable_default_vgic()	({ if (test_disable_default_vgic) test_disable_default_vgic(); })
#else
#define disable_default_vgic()	({ })
#endif

#ifdef __x86_64__
#include "svm_util.h"

#ifdef SVM_MISC_ENABLE_NP
/* Since then, struct svm_test_data has the stack. */
#define setup_svm(svm, rip, stack)	((void)(stack), generic_svm_setup(svm, rip))
#define enable_nested_paging(control)	((control)->misc_ctl |= SVM_MISC_ENABLE_NP)
#else
#define setup_svm(svm, rip, stack)	generic_svm_setup(svm, rip, stack)
#define enable_nested_paging(control)	((control)->nested_ctl |= SVM_NESTED_CTL_NP_ENABLE)
#endif
#endif /* __x86_64__ */

#endif
