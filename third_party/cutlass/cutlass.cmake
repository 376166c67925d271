# CUTLASS headers, never in the tree: imp_find_cutlass(OUT) sets OUT to their include directory.
#
#   -DIMP_CUTLASS_DIR=DIR    a checkout or an installed copy: DIR/include/cutlass/cutlass.h
#   else                     the nvidia-cutlass wheel of the Python that builds imp (pip install nvidia-cutlass==4.2.0.0)
#
# Only kernels that earn its compile time use it; a build without such kernels never calls this.
set(IMP_CUTLASS_DIR "" CACHE PATH "CUTLASS: directory with include/cutlass; empty: the nvidia-cutlass wheel")

function(imp_find_cutlass out)
  if(IMP_CUTLASS_DIR)
    set(include "${IMP_CUTLASS_DIR}/include")
  else()
    if(NOT Python_EXECUTABLE)
      find_package(Python REQUIRED COMPONENTS Interpreter)
    endif()
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c "import importlib.util as u, pathlib as p; print(p.Path(next(iter(u.find_spec('cutlass_library').submodule_search_locations))) / 'source' / 'include')"
      OUTPUT_VARIABLE include OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(NOT EXISTS "${include}/cutlass/cutlass.h")
    message(FATAL_ERROR "CUTLASS headers were not found (${include}); pip install nvidia-cutlass==4.2.0.0, or set IMP_CUTLASS_DIR")
  endif()
  set(${out} "${include}" PARENT_SCOPE)
endfunction()
