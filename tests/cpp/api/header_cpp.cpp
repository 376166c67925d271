// imp.h alone, as strict C++20: compiled with -pedantic -Werror.
#include <imp/imp.h>

static_assert(IMP_OK == 0 && IMP_ERROR_IO == -9);
